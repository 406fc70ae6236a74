# ProxyCLIP on COCO-Object: 37.5 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/proxyclip/cfg_coco_object.py
# Cost: 2 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 42x42 patches each.
_base_ = ["../_base_/coco_object.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="ProxyCLIP",
    benchmark="COCO-Object",
    miou=37.5,
    source="tables of later papers",
    differs="class names are SCLIP's; the authors give every class one name",
)
model = dict(
    name_path="configs/cls_coco_object_sclip.txt",
    background=True,
    attention="proxyclip",
    guide="dino-vitb8",
    prob_thd=0.25,
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
