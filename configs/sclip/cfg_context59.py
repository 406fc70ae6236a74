# SCLIP on Context59: 34.46 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_context59.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/context59.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="Context59", miou=34.46, source="authors' repository")
model = dict(
    name_path="configs/cls_context59.txt",
    attention="sclip",
)
