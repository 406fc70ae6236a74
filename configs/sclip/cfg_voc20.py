# SCLIP on VOC20: 81.54 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_voc20.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/voc20.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="VOC20", miou=81.54, source="authors' repository")
model = dict(
    name_path="configs/cls_voc20.txt",
    attention="sclip",
)
