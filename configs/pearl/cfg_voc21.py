# PEARL, its alignment alone, on VOC21: 59.2 mIoU in the authors' repository (ViT-B/16, no PAMR).
# With its propagation over pixels, which is not built here, 64.1.
# Command: python eval.py --config configs/pearl/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(
    method="PEARL",
    benchmark="VOC21",
    miou=59.2,
    source="authors' repository",
    differs="the rotation is exact, the authors' default approaches it by five iterations",
)
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="pearl",
    prob_thd=0.1,
    test_cfg=dict(_delete_=True, mode="whole"),
)
