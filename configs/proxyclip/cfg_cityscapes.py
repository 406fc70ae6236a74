# ProxyCLIP on Cityscapes: 38.1 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/proxyclip/cfg_cityscapes.py
# Cost: 21 encoder passes for 448x896 network pixels,
#   and as many of the guide, of 28x28 patches each.
_base_ = ["../_base_/cityscapes.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="ProxyCLIP",
    benchmark="Cityscapes",
    miou=38.1,
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
    name_path="configs/cls_cityscapes_sclip.txt",
    attention="proxyclip",
    guide="dino-vitb8",
)
