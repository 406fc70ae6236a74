# SC-CLIP on VOC21: 64.6 mIoU in tables of later papers (ViT-B/16, no PAMR).
# Command: python eval.py --config configs/scclip/cfg_voc21.py
# Cost: 6 encoder passes for 336x448 network pixels, their last block twice.
_base_ = ["../_base_/runtime.py", "../_base_/voc21.py"]
paper = dict(method="SC-CLIP", benchmark="VOC21", miou=64.6, source="tables of later papers")
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention="scclip",
    logit_scale=50,
    prob_thd=0.15,
    area_thd=0.1,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
