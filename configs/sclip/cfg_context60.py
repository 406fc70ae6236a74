# SCLIP on Context60: 31.74 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_context60.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/context60.py"]
paper = dict(method="SCLIP", benchmark="Context60", miou=31.74, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_context60_sclip.txt",
    background=True,
    attention="sclip",
    logit_scale=50,
    prob_thd=0.1,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
