# GEM on VOC21: 46.2 mIoU in tables of later papers (ViT-B/16, no PAMR).
# The whole image at 448x448, the authors' default (they resize bicubically, mmseg bilinearly).
# Differs: they fill one template ('a photo of a {}.'), this project always 80; their background
# threshold is not known, so names, scale and threshold are SCLIP's and NACLIP's.
# Command: python eval.py --config configs/gem/cfg_voc21.py
# Cost: 1 encoder pass for 448x448 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="GEM",
    benchmark="VOC21",
    miou=46.2,
    source="tables of later papers",
    differs="80 prompt templates instead of one, and a background threshold of our own",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="gem",
    prob_thd=0.1,
    test_cfg=dict(_delete_=True, mode="whole"),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 448), keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
