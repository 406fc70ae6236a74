# ResCLIP (on NACLIP) on COCO-Stuff: 24.7 mIoU in the authors' repository (ViT-B/16, no final PAMR).
# Command: python eval.py --config configs/resclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block twice,
#   and PAMR on their first segmentation.
_base_ = ["../_base_/runtime.py", "../_base_/coco_stuff_336.py"]
paper = dict(method="ResCLIP", benchmark="COCO-Stuff", miou=24.7, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention=dict(
        recipe="resclip", rcs_weight=0.4, sfr_weight=0.7, sfr_scale=1.8, feedback_thd=0.11
    ),
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
