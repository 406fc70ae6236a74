# ResCLIP (on NACLIP) on COCO-Stuff: 24.7 mIoU in the authors' repository (ViT-B/16, no final PAMR).
# Command: python eval.py --config configs/resclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block twice,
#   and PAMR on their first segmentation.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(method="ResCLIP", benchmark="COCO-Stuff", miou=24.7, source="authors' repository")
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention=dict(
        recipe="resclip", rcs_weight=0.4, sfr_weight=0.7, sfr_scale=1.8, feedback_thd=0.11
    ),
)
