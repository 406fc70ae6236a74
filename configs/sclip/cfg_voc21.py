# SCLIP on VOC21: 59.63 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_voc21.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/voc21.py"]
paper = dict(method="SCLIP", benchmark="VOC21", miou=59.63, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="sclip",
    logit_scale=65,
    prob_thd=0.1,
    area_thd=0.1,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
