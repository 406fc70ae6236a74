# ITACLIP's settings on VOC21 with LAION's ViT-B/16: GELU instead of QuickGELU, no published figure.
# Command: python eval.py --config configs/backbones/cfg_voc21_laion.py
# Cost: 45 encoder passes for 336x448 network pixels. Fetches 599 MB once.
_base_ = ["../_base_/voc21.py", "../_base_/itaclip.py"]
model = dict(
    clip_model="hf:laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    name_path="configs/cls_voc21.txt",
    background=True,
    logit_scale=60,
    prob_thd=0.1,
    area_thd=0.1,
)
