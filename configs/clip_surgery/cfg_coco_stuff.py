# CLIP Surgery on COCO-Stuff: 21.9 mIoU in the authors' repository (no PAMR; protocol unpublished).
# The whole image at 512x512, as in the authors' demo. 80 prompt templates, theirs are 85; positions
# are resized bicubically, theirs bilinearly; no feature surgery.
# Command: python eval.py --config configs/clip_surgery/cfg_coco_stuff.py
# Cost: 1 encoder pass for 512x512 network pixels.
_base_ = ["../_base_/coco_stuff.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="CLIP Surgery",
    benchmark="COCO-Stuff",
    miou=21.9,
    source="authors' repository",
    differs="the authors' segmentation protocol was not published",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="clip_surgery",
    test_cfg=dict(_delete_=True, mode="whole"),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(512, 512), keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
