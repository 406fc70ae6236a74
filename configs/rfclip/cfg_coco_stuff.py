# RF-CLIP on COCO-Stuff: 27.5 mIoU in secondary notes on the paper (ViT-B/16, PAMR).
# The encoder of the published code. Differs: that code's segmentor also mixes in the image's
# global score and adapts text features to the image; neither is built here.
# Command: python eval.py --config configs/rfclip/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block three times.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="RF-CLIP",
    benchmark="COCO-Stuff",
    miou=27.5,
    source="secondary notes on the paper",
    differs="the published segmentor's global score and text prototypes are not built",
)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="rfclip",
    pamr=dict(num_iter=10, dilations=(8, 16)),
)
