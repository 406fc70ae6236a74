# NACLIP on VOC20: 83.03 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_voc20.py
# Cost: 1 encoder pass for 336x448 network pixels.
_base_ = ["../_base_/voc20.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="VOC20", miou=83.03, source="authors' repository")
model = dict(
    name_path="configs/cls_voc20.txt",
    attention="naclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
    test_cfg=dict(_delete_=True, mode="whole"),
)
