# SCLIP on Context60: 31.74 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_context60.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/context60.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="Context60", miou=31.74, source="authors' repository")
model = dict(
    name_path="configs/cls_context60_sclip.txt",
    background=True,
    attention="sclip",
    logit_scale=50,
    prob_thd=0.1,
)
