# Trident on VOC21: 67.1 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/16 (ImageNet-1k without labels, Apache-2.0);
# SAM ViT-B (SA-1B, Apache-2.0) correlates patches, and refines masks at the end.
# SAM sees the network's picture for the correlation, the authors' the file at its own size.
# Command: python eval.py --config configs/trident/cfg_voc21.py
# Cost: 6 encoder passes for 464x608 network pixels,
#   as many of the guide and one of SAM's encoder; its decoder for every component found.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="Trident",
    benchmark="VOC21",
    miou=67.1,
    source="tables of later papers",
    differs="SAM correlates on the resized picture; class names are SCLIP's",
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 448), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="trident",
    guide=dict(model="dino-vitb16", sam="sam-vitb"),
    regions=dict(source="sam", model="hf:facebook/sam-vit-base", rule="sam_refine", thd=0.2),
    prob_thd=0.2,
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(224, 224), merge="stitch"),
)
