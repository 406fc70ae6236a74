# CASS on VOC21: 65.8 mIoU in the tables of later papers.
# Second backbone: DINO's ViT-B/8 (ImageNet-1k without labels, Apache-2.0).
# Command: python eval.py --config configs/cass/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels,
#   as many of the guide, and one of the whole picture for its [CLS].
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="CASS",
    benchmark="VOC21",
    miou=65.8,
    source="tables of later papers",
    differs="class names are SCLIP's; the authors give every class one name",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention=dict(recipe="cass", global_weight=0.1, patch_weight=0.03, cluster_distance=0.1),
    guide="dino-vitb8",
    prob_thd=0.1,
    test_cfg=dict(_delete_=True, mode="whole"),
)
