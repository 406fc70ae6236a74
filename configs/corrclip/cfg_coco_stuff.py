# CorrCLIP on COCO-Stuff: 30.7 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0);
# regions: SAM 2.1 Hiera-L (SA-V and SA-1B, Apache-2.0).
# Command: python eval.py --config configs/corrclip/cfg_coco_stuff.py
# Cost: 2 encoder passes for 336x448 network pixels,
#   and as many of the guide; SAM 2.1's automatic masks once for each picture.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="CorrCLIP",
    benchmark="COCO-Stuff",
    miou=30.7,
    source="tables of later papers",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="corrclip",
    guide="dino-vitb8",
    regions=dict(
        source="sam", model="hf:facebook/sam2.1-hiera-large", points_per_side=32, rule="vote"
    ),
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
