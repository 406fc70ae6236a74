# The protocol of SCLIP, which NACLIP and later methods follow: no views, no auxiliary texts.
_base_ = ["runtime.py"]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(112, 112)),
)
