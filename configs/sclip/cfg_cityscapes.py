# SCLIP on Cityscapes: 32.34 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_cityscapes.py
# Cost: 36 encoder passes for 560x1120 network pixels.
_base_ = ["../_base_/cityscapes.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="Cityscapes", miou=32.34, source="authors' repository")
model = dict(
    name_path="configs/cls_cityscapes_sclip.txt",
    attention="sclip",
)
