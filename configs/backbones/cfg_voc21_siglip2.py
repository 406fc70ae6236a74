# MaskCLIP's reading on VOC21 with SigLIP 2, whose patches are read through its pooling head; it has
# no [CLS]. No published figure; thresholds of other models mean nothing here.
# Command: python eval.py --config configs/backbones/cfg_voc21_siglip2.py
# Cost: 6 encoder passes for 336x448 network pixels. Fetches 1.5 GB once.
# Needs: pip install 'itaclip[transformers]'
_base_ = ["../_base_/voc21.py", "../_base_/itaclip.py"]
model = dict(
    clip_model="hf:google/siglip2-base-patch16-224",
    name_path="configs/cls_voc21.txt",
    background=True,
    attention="maskclip",
    label_closing=0,
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
