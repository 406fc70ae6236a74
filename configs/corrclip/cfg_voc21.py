# CorrCLIP on VOC21: 72.2 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0);
# regions: SAM 2.1 Hiera-L (SA-V and SA-1B, Apache-2.0).
# Command: python eval.py --config configs/corrclip/cfg_voc21.py
# Cost: 2 encoder passes for 336x448 network pixels,
#   and as many of the guide; SAM 2.1's automatic masks once for each picture.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="CorrCLIP",
    benchmark="VOC21",
    miou=72.2,
    source="tables of later papers",
    differs="class names are SCLIP's; the authors give every class one name",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="corrclip",
    guide="dino-vitb8",
    regions=dict(
        source="sam", model="hf:facebook/sam2.1-hiera-large", points_per_side=32, rule="vote"
    ),
    prob_thd=0.2,
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
