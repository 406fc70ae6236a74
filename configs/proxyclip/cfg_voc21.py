# ProxyCLIP on VOC21: 61.3 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/proxyclip/cfg_voc21.py
# Cost: 2 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 42x42 patches each.
_base_ = ["../_base_/runtime.py", "../_base_/voc21.py"]
paper = dict(
    method="ProxyCLIP",
    benchmark="VOC21",
    miou=61.3,
    source="tables of later papers",
    differs="class names are SCLIP's; the authors give every class one name",
)
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="proxyclip",
    guide="dino-vitb8",
    logit_scale=40,
    prob_thd=0.2,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
