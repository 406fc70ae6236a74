# SCLIP on COCO-Stuff: 22.77 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_coco_stuff.py
# Cost: 15 encoder passes for 448x597 network pixels.
_base_ = ["../_base_/coco_stuff.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="COCO-Stuff", miou=22.77, source="authors' repository")
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="sclip",
)
