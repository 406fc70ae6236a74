# LPOSS on COCO-Stuff: 25.9 mIoU in secondary notes on the paper.
# CLIP trained on LAION-2B.
# Second backbone: DINO's ViT-B/16 (ImageNet-1k without labels, Apache-2.0).
# With propagation="lposs_plus" it is LPOSS+.
# Command: python eval.py --config configs/lposs/cfg_coco_stuff.py
# Cost: 15 encoder passes for 448x597 network pixels,
#   and as many of the guide; then one sparse system over all their patches.
_base_ = ["../_base_/coco_stuff.py", "../_base_/lposs.py"]
paper = dict(
    method="LPOSS",
    benchmark="COCO-Stuff",
    miou=25.9,
    source="secondary notes on the paper",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
)
