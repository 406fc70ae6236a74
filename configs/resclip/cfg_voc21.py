# ResCLIP (on NACLIP) on VOC21: 61.1 mIoU in the authors' repository (ViT-B/16, no PAMR at the end).
# Command: python eval.py --config configs/resclip/cfg_voc21.py
# Cost: 1 encoder pass for 336x448 network pixels, its last block twice,
#   and PAMR on its first segmentation.
_base_ = ["../_base_/voc21.py", "../_base_/sclip_protocol.py"]
paper = dict(method="ResCLIP", benchmark="VOC21", miou=61.1, source="authors' repository")
model = dict(
    name_path="configs/cls_voc21_sclip.txt",
    background=True,
    attention=dict(
        recipe="resclip", rcs_weight=0.3, sfr_weight=0.7, sfr_scale=2.2, feedback_thd=0.5
    ),
    prob_thd=0.1,
    test_cfg=dict(_delete_=True, mode="whole"),
)
