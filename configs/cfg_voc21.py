# ITACLIP on VOC21: paper Table 1, 67.9 mIoU (ViT-B/16, PAMR, the authors' own texts).
# Command: python eval.py --config configs/cfg_voc21.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/voc21.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="VOC21", miou=67.9, source="paper, Table 1")
model = dict(
    name_path="configs/cls_voc21.txt",
    background=True,
    auxiliary_text_path="aux_texts/voc21_definitions.txt",
    aux_text_weight=0.05,
    image_engineering_weight=0.7,
    logit_scale=60,
    prob_thd=0.1,
    area_thd=0.1,
)
