# PEARL on COCO-Stuff: 26.3 mIoU in the authors' repository (ViT-B/16, no PAMR).
# The rotation is exact; the authors' default approaches it by five iterations. What is inferred of
# the propagation: docs/recipes.md.
# Command: python eval.py --config configs/pearl/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="PEARL",
    benchmark="COCO-Stuff",
    miou=26.3,
    source="authors' repository",
    differs="the rotation is exact; parts of the propagation are inferred",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="pearl",
    propagation="pearl",
)
