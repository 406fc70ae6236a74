# SCLIP on VOC21: 59.63 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_voc21.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="VOC21", miou=59.63, source="authors' repository")
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="sclip",
    logit_scale=65,
    prob_thd=0.1,
    area_thd=0.1,
)
