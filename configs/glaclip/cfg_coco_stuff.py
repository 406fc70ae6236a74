# GLA-CLIP on COCO-Stuff: no figure known.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# The stride is inferred: that of ProxyCLIP, on which the method builds.
# Command: python eval.py --config configs/glaclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 28x28 patches each; one attention over all of them.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="GLA-CLIP",
    benchmark="COCO-Stuff",
    miou=None,
    source=None,
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="gla_clip",
    guide="dino-vitb8",
)
