# NACLIP on COCO-Stuff: 25.69 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="COCO-Stuff", miou=25.69, source="authors' repository")
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="naclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
