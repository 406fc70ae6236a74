# SCLIP on COCO-Object: 33.52 mIoU in the authors' repository (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/sclip/cfg_coco_object.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_object.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SCLIP", benchmark="COCO-Object", miou=33.52, source="authors' repository")
model = dict(
    name_path="configs/cls_coco_object_sclip.txt",
    background=True,
    attention="sclip",
    logit_scale=50,
    prob_thd=0.1,
)
