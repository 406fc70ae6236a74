# PEARL, its alignment alone, on VOC21: 59.2 mIoU in the authors' repository (ViT-B/16, no PAMR).
# With its propagation over pixels, which is not built here, 64.1.
# Command: python eval.py --config configs/pearl/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/voc21.py"]
paper = dict(
    method="PEARL",
    benchmark="VOC21",
    miou=59.2,
    source="authors' repository",
    differs="the rotation is exact, the authors' default approaches it by five iterations",
)
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="pearl",
    logit_scale=40,
    prob_thd=0.1,
    precision="auto",
    test_cfg=dict(mode="whole"),
)
