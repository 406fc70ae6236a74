# SCLIP on ADE20K: 16.45 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_ade20k.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/ade20k.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="ADE20K", miou=16.45, source="authors' repository")
model = dict(
    name_path="configs/cls_ade20k.txt",
    attention="sclip",
)
