# NACLIP on VOC21: 64.07 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/voc21.py"]
paper = dict(method="NACLIP", benchmark="VOC21", miou=64.07, source="authors' repository")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="naclip",
    logit_scale=40,
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="whole"),
)
