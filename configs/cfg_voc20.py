# ITACLIP on VOC20: not in the paper; λ, α and the kind of text are those of its VOC21 row.
# Command: python eval.py --config configs/cfg_voc20.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/voc20.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="VOC20", miou=None, source=None)
model = dict(
    name_path="configs/cls_voc20.txt",
    auxiliary_text_path="aux_texts/voc20_definitions.txt",
    aux_text_weight=0.05,
    image_engineering_weight=0.7,
)
