# ITACLIP on Cityscapes: paper Table 1, 40.2 mIoU (ViT-B/16, PAMR, the authors' own texts).
# Command: python eval.py --config configs/cfg_cityscapes.py
# Cost: 2145 encoder passes for 560x1120 network pixels; 595 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/cityscapes.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="Cityscapes", miou=40.2, source="paper, Table 1")
model = dict(
    name_path="configs/cls_cityscapes.txt",
    auxiliary_text_path="aux_texts/cityscapes_synonyms.txt",
    aux_text_weight=0.05,
    image_engineering_weight=0.7,
)
