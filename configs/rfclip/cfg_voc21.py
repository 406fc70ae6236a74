# RF-CLIP on VOC21: 67.2 mIoU in secondary notes on the paper (ViT-B/16, PAMR).
# The encoder of the published code. Differs: that code's segmentor also mixes in the image's
# global score and adapts text features to the image; neither is built here.
# Command: python eval.py --config configs/rfclip/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels, its last block three times.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="RF-CLIP",
    benchmark="VOC21",
    miou=67.2,
    source="secondary notes on the paper",
    differs="the published segmentor's global score and text prototypes are not built",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="rfclip",
    prob_thd=0.1,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    test_cfg=dict(_delete_=True, mode="whole"),
)
