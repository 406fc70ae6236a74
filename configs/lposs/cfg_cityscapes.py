# LPOSS on Cityscapes: 37.3 mIoU in secondary notes on the paper.
# CLIP trained on LAION-2B.
# Second backbone: DINO's ViT-B/16 (ImageNet-1k without labels, Apache-2.0).
# With propagation="lposs_plus" it is LPOSS+.
# Command: python eval.py --config configs/lposs/cfg_cityscapes.py
# Cost: 21 encoder passes for 448x896 network pixels,
#   and as many of the guide; then one sparse system over all their patches.
_base_ = ["../_base_/cityscapes.py", "../_base_/lposs.py"]
paper = dict(
    method="LPOSS",
    benchmark="Cityscapes",
    miou=37.3,
    source="secondary notes on the paper",
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
)
