# ITACLIP on Context59: not in the paper; λ, α and the kind of text are those of its Context60 row.
# Command: python eval.py --config configs/cfg_context59.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/context59.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="Context59", miou=None, source=None)
model = dict(
    name_path="configs/cls_context59.txt",
    auxiliary_text_path="aux_texts/context59_definitions.txt",
    aux_text_weight=0.15,
    image_engineering_weight=0.75,
)
