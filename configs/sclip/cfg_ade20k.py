# SCLIP on ADE20K: 16.45 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_ade20k.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/ade20k.py"]
paper = dict(method="SCLIP", benchmark="ADE20K", miou=16.45, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_ade20k.txt",
    attention="sclip",
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
