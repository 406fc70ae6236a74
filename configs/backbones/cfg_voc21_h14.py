# ProxyCLIP on VOC21 with LAION's ViT-H/14: 32 blocks of 16 heads, GELU. Recipes of CLIP alone lose
# much on such a depth; ProxyCLIP's attention is the guide's, so it does not.
# Command: python eval.py --config configs/backbones/cfg_voc21_h14.py
# Cost: 2 encoder passes for 336x448 network pixels, and as many of the guide. Fetches 3.9 GB once.
_base_ = ["../_base_/voc21.py", "../_base_/itaclip.py"]
model = dict(
    clip_model="hf:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    name_path="configs/cls_voc21.txt",
    background=True,
    attention="proxyclip",
    guide="dino-vitb8",
    label_closing=0,
    pamr=None,
    test_cfg=dict(mode="slide", crop_size=(336, 336), stride=(112, 112)),
)
