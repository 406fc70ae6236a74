# CLIPSeg, as we read it, on COCO-Stuff: no figure known (ViT-B/16, no PAMR).
# Our own reading of a paper (Liu et al., AAAI 2025) without public code; protocol and constants are
# not known to us: docs/recipes.md. The setting here is the one of the SCLIP family.
# Command: python eval.py --config configs/clipseg/cfg_coco_stuff.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/coco_stuff_336.py", "../_base_/sclip_protocol.py"]
paper = dict(method="CLIPSeg", benchmark="COCO-Stuff", miou=None, source=None)
model = dict(
    name_path="configs/cls_coco_stuff_sclip.txt",
    attention="clipseg",
)
