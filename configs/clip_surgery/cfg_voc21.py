# CLIP Surgery on VOC21: no figure known (ViT-B/16, no PAMR).
# The whole image at 512x512, as in the authors' demo. They published no segmentation protocol:
# background names, scale and threshold are SCLIP's and NACLIP's. 80 prompt templates, theirs are
# 85; positions are resized bicubically, theirs bilinearly; no feature surgery.
# Command: python eval.py --config configs/clip_surgery/cfg_voc21.py
# Cost: 1 encoder pass for 512x512 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(method="CLIP Surgery", benchmark="VOC21", miou=None, source=None)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="clip_surgery",
    prob_thd=0.1,
    test_cfg=dict(_delete_=True, mode="whole"),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(512, 512), keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
