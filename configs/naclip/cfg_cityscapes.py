# NACLIP on Cityscapes: 38.27 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_cityscapes.py
# Cost: 36 encoder passes for 560x1120 network pixels.
_base_ = ["../_base_/cityscapes.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="Cityscapes", miou=38.27, source="authors' repository")
model = dict(
    name_path="configs/cls_cityscapes_sclip.txt",
    attention="naclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
