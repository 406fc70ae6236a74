# ITACLIP on COCO-Object: paper Table 1, 37.7 mIoU (ViT-B/16, PAMR, the authors' own texts).
# Command: python eval.py --config configs/cfg_coco_object.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/coco_object.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="COCO-Object", miou=37.7, source="paper, Table 1")
model = dict(
    name_path="configs/cls_coco_object.txt",
    background=True,
    auxiliary_text_path="aux_texts/coco_object_synonyms.txt",
    aux_text_weight=0.1,
    image_engineering_weight=0.75,
    logit_scale=50,
    prob_thd=0.1,
)
