# ProxyCLIP on Storybook, with the small second backbone that ships with the project: shows that the
# recipes with a guide run offline, not what they gain (docs/recipes.md).
# Command: python eval.py --config configs/proxyclip/cfg_storybook.py
# Cost: 6 encoder passes of the tiny model for 168x224 pixels, and as many of the guide, of 28x28
#   patches each.
_base_ = ["../_base_/runtime.py", "../_base_/storybook.py"]
model = dict(
    type="ITACLIPSegmentor",
    clip_model="storybook-tiny",
    name_path="configs/cls_storybook.txt",
    attention=dict(recipe="proxyclip", sharpness=40.0),
    guide="storybook-guide",
    logit_scale=40,
    precision="auto",
    test_cfg=dict(mode="slide", crop_size=(112, 112), stride=(56, 56)),
)
