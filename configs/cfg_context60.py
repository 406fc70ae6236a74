# ITACLIP on Context60: paper Table 1, 37.5 mIoU (ViT-B/16, PAMR, the authors' own texts).
# Command: python eval.py --config configs/cfg_context60.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/context60.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="Context60", miou=37.5, source="paper, Table 1")
model = dict(
    name_path="configs/cls_context60.txt",
    background=True,
    auxiliary_text_path="aux_texts/context60_definitions.txt",
    aux_text_weight=0.15,
    image_engineering_weight=0.75,
    logit_scale=55,
    prob_thd=0.1,
)
