# NACLIP's recipe on VOC21 with MetaCLIP's ViT-B/16: QuickGELU, no published figure.
# Command: python eval.py --config configs/backbones/cfg_voc21_metaclip.py
# Cost: 6 encoder passes for 336x448 network pixels. Fetches 599 MB once.
_base_ = ["../_base_/voc21.py", "../_base_/itaclip.py"]
model = dict(
    clip_model="hf:facebook/metaclip-b16-fullcc2.5b",
    name_path="configs/cls_voc21.txt",
    background=True,
    attention="naclip",
    label_closing=0,
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
