# ITACLIP on ADE20K: not in the paper; λ, α and the kind of text are those of its COCO-Stuff row.
# Command: python eval.py --config configs/cfg_ade20k.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/ade20k.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="ADE20K", miou=None, source=None)
model = dict(
    name_path="configs/cls_ade20k.txt",
    auxiliary_text_path="aux_texts/ade20k_definitions.txt",
    aux_text_weight=0.2,
    image_engineering_weight=0.75,
)
