# NACLIP on COCO-Object: 36.19 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_coco_object.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_object.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="COCO-Object", miou=36.19, source="authors' repository")
model = dict(
    name_path="configs/cls_coco_object_sclip.txt",
    background=True,
    attention="naclip",
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
