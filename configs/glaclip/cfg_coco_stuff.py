# GLA-CLIP on COCO-Stuff: no figure known.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# The stride is inferred: that of ProxyCLIP, on which the method builds.
# Command: python eval.py --config configs/glaclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 28x28 patches each; one attention over all of them.
_base_ = ["../_base_/runtime.py", "../_base_/coco_stuff_336.py"]
paper = dict(
    method="GLA-CLIP",
    benchmark="COCO-Stuff",
    miou=None,
    source=None,
)
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="gla_clip",
    guide="dino-vitb8",
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
