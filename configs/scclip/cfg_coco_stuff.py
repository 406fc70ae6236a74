# SC-CLIP on COCO-Stuff: 26.6 mIoU in tables of later papers (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/scclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block twice.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SC-CLIP", benchmark="COCO-Stuff", miou=26.6, source="tables of later papers")
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="scclip",
)
