# NACLIP on VOC21: 64.07 mIoU in the authors' repository (ViT-B/16, PAMR).
# Command: python eval.py --config configs/naclip/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(method="NACLIP", benchmark="VOC21", miou=64.07, source="authors' repository")
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="naclip",
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    test_cfg=dict(_delete_=True, mode="whole"),
)
