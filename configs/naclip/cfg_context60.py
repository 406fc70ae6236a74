# NACLIP on Context60: 34.99 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_context60.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/context60.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="Context60", miou=34.99, source="authors' repository")
model = dict(
    name_path="configs/cls_context60_sclip.txt",
    background=True,
    attention="naclip",
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
