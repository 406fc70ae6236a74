# PEARL, its alignment alone, on COCO-Stuff: no figure known (ViT-B/16, no PAMR).
# With its propagation over pixels, which is not built here, the authors' repository has 26.3. The
# rotation is exact; the authors' default approaches it by five iterations.
# Command: python eval.py --config configs/pearl/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/runtime.py", "../_base_/coco_stuff_336.py"]
paper = dict(method="PEARL", benchmark="COCO-Stuff", miou=None, source=None)
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="pearl",
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
