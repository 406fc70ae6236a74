# ITACLIP as in the paper; words, texts and weights of texts and views differ by data set.
_base_ = ["runtime.py"]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="ViT-B/16",
    attention="itaclip",
    logit_scale=40,
    label_closing=3,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(224, 224), stride=(28, 28)),
)
