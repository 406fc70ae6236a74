# SC-CLIP on VOC21: 64.6 mIoU in tables of later papers (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/scclip/cfg_voc21.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block twice.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(method="SC-CLIP", benchmark="VOC21", miou=64.6, source="tables of later papers")
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="scclip",
    logit_scale=50,
    prob_thd=0.15,
    area_thd=0.1,
)
