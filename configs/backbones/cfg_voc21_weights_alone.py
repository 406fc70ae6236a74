# A file of weights that says nothing of itself, on VOC21: the config says what it is.
# Command: python eval.py --config configs/backbones/cfg_voc21_weights_alone.py
# Cost: 6 encoder passes for 336x448 network pixels.
_base_ = ["../_base_/voc21.py", "../_base_/itaclip.py"]
model = dict(
    clip_model="weights/my_clip.pt",
    clip_config=dict(
        activation="gelu",  # of LAION, DataComp; 'quick_gelu' of OpenAI, MetaCLIP, DFN
        vision_heads=12,  # 12 in B, 16 in L (and in H, whose heads are 80 wide)
        text_heads=8,  # 8 in B, 12 in L, 16 in H
        mean=(0.48145466, 0.4578275, 0.40821073),  # RGB, from 0 to 1; these two are the default
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    name_path="configs/cls_voc21.txt",
    background=True,
    attention="naclip",
    label_closing=0,
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
