# PEARL, its alignment alone, on COCO-Stuff: no figure known (ViT-B/16, no PAMR).
# With its propagation over pixels, which is not built here, the authors' repository has 26.3. The
# rotation is exact; the authors' default approaches it by five iterations.
# Command: python eval.py --config configs/pearl/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(method="PEARL", benchmark="COCO-Stuff", miou=None, source=None)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="pearl",
)
