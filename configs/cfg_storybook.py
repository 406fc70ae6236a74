# ITACLIP on Storybook, the drawn benchmark that ships with the project (see docs/storybook_tiny).
# Command: python eval.py --config configs/cfg_storybook.py
_base_ = ["_base_/runtime.py", "_base_/storybook.py"]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="storybook-tiny",
    name_path="configs/cls_storybook.txt",
    auxiliary_text_path="aux_texts/storybook_synonyms.txt",
    aux_text_weight=0.15,
    attention="itaclip",
    image_engineering_weight=0.75,
    logit_scale=40,
    label_closing=3,
    pamr=dict(num_iter=10, dilations=(8, 16)),
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(112, 112), stride=(28, 28)),
)
custom_hooks = [dict(type="TrimMemoryHook"), dict(type="OverlayHook", every_image=False)]
