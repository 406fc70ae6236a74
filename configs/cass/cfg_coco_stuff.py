# CASS on COCO-Stuff: 26.7 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/cass/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels,
#   as many of the guide, and one of the whole picture for its [CLS].
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="CASS",
    benchmark="COCO-Stuff",
    miou=26.7,
    source="tables of later papers",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention=dict(recipe="cass", global_weight=0.2, patch_weight=0.02, cluster_distance=0.02),
    guide="dino-vitb8",
)
