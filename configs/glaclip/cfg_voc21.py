# GLA-CLIP on VOC21: 66.3 mIoU in paper.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# The stride is inferred: that of ProxyCLIP, on which the method builds.
# Command: python eval.py --config configs/glaclip/cfg_voc21.py
# Cost: 6 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 28x28 patches each; one attention over all of them.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="GLA-CLIP",
    benchmark="VOC21",
    miou=66.3,
    source="paper",
    differs="class names are SCLIP's; the authors give every class one name",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="gla_clip",
    guide="dino-vitb8",
    prob_thd=0.1,
)
