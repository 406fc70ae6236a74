# ITACLIP on COCO-Stuff: paper Table 1, 27.0 mIoU (ViT-B/16, PAMR, the authors' own texts).
# Command: python eval.py --config configs/cfg_coco_stuff.py
# Cost: 675 encoder passes for 448x597 network pixels; 200 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/coco_stuff.py", "_base_/itaclip.py"]
paper = dict(method="ITACLIP", benchmark="COCO-Stuff", miou=27.0, source="paper, Table 1")
model = dict(
    name_path="configs/cls_coco_stuff.txt",
    auxiliary_text_path="aux_texts/coco_stuff_definitions.txt",
    aux_text_weight=0.2,
    image_engineering_weight=0.75,
)
