# GEM on COCO-Stuff: 23.7 mIoU in ClearCLIP's repository, a rerun in that method's protocol.
# The whole image at 448x448, GEM's own default (it resizes bicubically, mmseg bilinearly).
# Differs: GEM fills one template ('a photo of a {}.'), this project always 80.
# Command: python eval.py --config configs/gem/cfg_coco_stuff.py
# Cost: 1 encoder pass for 448x448 network pixels.
_base_ = ["../_base_/coco_stuff.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="GEM",
    benchmark="COCO-Stuff",
    miou=23.7,
    source="rerun in ClearCLIP's repository",
    differs="the rerun followed ClearCLIP's protocol, this config GEM's but for its template",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="gem",
    test_cfg=dict(_delete_=True, mode="whole"),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(448, 448), keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
