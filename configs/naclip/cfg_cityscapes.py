# NACLIP on Cityscapes: 38.27 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_cityscapes.py
# Cost: 36 encoder passes for 560x1120 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/cityscapes.py"]
paper = dict(method="NACLIP", benchmark="Cityscapes", miou=38.27, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_cityscapes_sclip.txt",
    attention="naclip",
    logit_scale=40,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
