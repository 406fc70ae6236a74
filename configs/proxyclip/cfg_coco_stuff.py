# ProxyCLIP on COCO-Stuff: 26.5 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/proxyclip/cfg_coco_stuff.py
# Cost: 2 encoder passes for 336x448 network pixels,
#   and as many of the guide, of 42x42 patches each.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="ProxyCLIP",
    benchmark="COCO-Stuff",
    miou=26.5,
    source="tables of later papers",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="proxyclip",
    guide="dino-vitb8",
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
