# ProxyCLIP on ADE20K: 20.2 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/proxyclip/cfg_ade20k.py
# Cost: 8 encoder passes for 448x597 network pixels,
#   and as many of the guide, of 42x42 patches each.
_base_ = ["../_base_/ade20k.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="ProxyCLIP",
    benchmark="ADE20K",
    miou=20.2,
    source="tables of later papers",
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 448), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(
    name_path="configs/cls_ade20k.txt",
    attention="proxyclip",
    guide="dino-vitb8",
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
