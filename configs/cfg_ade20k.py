# ITACLIP on ADE20K: not in the paper; λ, α and the kind of text are those of its COCO-Stuff row.
# Command: python eval.py --config configs/cfg_ade20k.py
# Cost: 225 encoder passes for 336x448 network pixels; 75 with
#   --cfg-options model.test_cfg.stride="(56, 56)", which loses 0.1 mIoU at most (paper Table 7).
_base_ = ["_base_/runtime.py", "_base_/ade20k.py"]
paper = dict(method="ITACLIP", benchmark="ADE20K", miou=None, source=None)
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_ade20k.txt",
    auxiliary_text_path="aux_texts/ade20k_definitions.txt",
    aux_text_weight=0.2,
    attention="itaclip",
    image_engineering_weight=0.75,
    logit_scale=40,
    label_closing=3,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(28, 28)),
)
