# Trident on COCO-Stuff: 28.3 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/16 (ImageNet-1k without labels, Apache-2.0);
# SAM ViT-B (SA-1B, Apache-2.0) correlates patches, and refines masks at the end.
# SAM sees the network's picture for the correlation, the authors' the file at its own size.
# Command: python eval.py --config configs/trident/cfg_coco_stuff.py
# Cost: 6 encoder passes for 464x608 network pixels,
#   as many of the guide and one of SAM's encoder; its decoder for every component found.
_base_ = ["../_base_/coco_stuff.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="Trident",
    benchmark="COCO-Stuff",
    miou=28.3,
    source="tables of later papers",
    differs="SAM correlates on the resized picture",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="trident",
    guide=dict(model="dino-vitb16", sam="sam-vitb"),
    regions=dict(source="sam", model="hf:facebook/sam-vit-base", rule="sam_refine", thd=0.05),
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(224, 224), merge="stitch"),
)
