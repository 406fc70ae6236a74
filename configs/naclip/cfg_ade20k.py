# NACLIP on ADE20K: 19.05 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_ade20k.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/ade20k.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="ADE20K", miou=19.05, source="authors' repository")
model = dict(
    name_path="configs/cls_ade20k.txt",
    attention="naclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
