# NACLIP on Context59: 38.35 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_context59.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/context59.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="Context59", miou=38.35, source="authors' repository")
model = dict(
    name_path="configs/cls_context59.txt",
    attention="naclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
