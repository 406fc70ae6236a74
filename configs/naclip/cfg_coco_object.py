# NACLIP on COCO-Object: 36.19 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_coco_object.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/coco_object.py"]
paper = dict(method="NACLIP", benchmark="COCO-Object", miou=36.19, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_coco_object_sclip.txt",
    background=True,
    attention="naclip",
    logit_scale=40,
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
