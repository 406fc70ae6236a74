"""Rival methods of the package against their slow references."""

import pytest
import reference_rivals as rivals
import torch
import torch.nn.functional as F

from itaclip.image_encoder import ImageEncoder
from itaclip.recipes import resolve_recipe
from itaclip.recipes.resclip import feedback_map, label_patches


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


TEXT = F.normalize(random(7, 32, seed=9), dim=-1)
# Recipe, its keys, the reference, its keys.
CASES = {
    "clip_surgery": ("clip_surgery", {}, rivals.clip_surgery, {}),
    "clip_surgery, 2 blocks": (
        "clip_surgery", dict(path_blocks=2), rivals.clip_surgery, dict(start=11)
    ),
    "gem": ("gem", {}, rivals.gem, {}),
    "gem, sharp": (
        "gem", dict(path_blocks=3, iterations=2, inverse_temperature=9.0),
        rivals.gem, dict(start=10, iterations=2, temperature=9.0),
    ),
    "gem, no clustering": ("gem", dict(iterations=0), rivals.gem, dict(iterations=0)),
    "resclip": (
        "resclip", dict(feedback_thd=0.2), rivals.resclip, dict(text=TEXT, feedback_thd=0.2)
    ),
    "resclip, COCO-Stuff": (
        "resclip", dict(rcs_weight=0.4, sfr_scale=1.8, feedback_thd=0.11),
        rivals.resclip, dict(text=TEXT, rcs_weight=0.4, sfr_scale=1.8, feedback_thd=0.11),
    ),
    "resclip, first pass": ("resclip", dict(sfr_weight=None), rivals.resclip, {}),
    "scclip": ("scclip", {}, rivals.scclip, {}),
    "scclip, varied": (
        "scclip",
        dict(neighbours=5, outlier_quantile=0.8, similarity_layer=7, early_layer=2,
             similarity_threshold=0.6, sharpness=9.0, second_pass_layers=(2, 11), cls_weight=0.7),
        rivals.scclip,
        dict(neighbours=5, quantile=0.8, similarity_layer=7, post_layer=2, threshold=0.6,
             sharpness=9.0, second_pass_layers=(2, 11), cls_weight=0.7),
    ),
    "rfclip": (
        "rfclip", dict(channels=(3, 50), spike=3.0),
        rivals.rfclip, dict(channels=(3, 50), factor=3.0),
    ),
    "rfclip, all denoised": (
        "rfclip", dict(channels=(3, 50), spike=0.01, smoothing=0.7, similarity_threshold=0.8),
        rivals.rfclip, dict(channels=(3, 50), factor=0.01, share=0.7, threshold=0.8),
    ),
    "pearl": ("pearl", {}, rivals.pearl, {}),
    "pearl, Cityscapes": ("pearl", dict(key_weight=0.3), rivals.pearl, dict(self_weight=0.3)),
}  # fmt: skip
# PEARL's rotation is only unique with more tokens than a head's 64 channels.
SIZES = [(144, 119), (64, 64), (48, 85), (16, 16)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_recipe_equals_its_reference(case, size, tiny_clip):
    recipe, keys, method, arguments = CASES[case]
    own = ImageEncoder(tiny_clip.visual, resolve_recipe(dict(recipe=recipe, **keys), 12))
    image = random(3, *size, seed=1)
    found = F.normalize(own(image[None], TEXT)[0][0], dim=-1)
    expected = method(tiny_clip, image, **arguments)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_patch_takes_the_smallest_of_its_commonest_labels():
    """Query 2 on the left, query 1 on the right of an even surface: half of the middle each."""
    image = torch.zeros(3, 80, 121)
    similarities = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]])
    similarities = similarities.expand(2, 3, 3)
    for threshold, expected in ((0.0, [2, 1, 1]), (1.0, [0, 0, 0])):
        found = label_patches(similarities, image[..., :120], 40, threshold)
        assert found.tolist() == [expected] * 2
        found = label_patches(similarities, image, 40, threshold)  # a column beyond the patches
        arguments = (similarities, image, 40, 40.0, threshold, 10, (8, 16))
        assert torch.equal(found, rivals.feedback_labels(*arguments))


@pytest.mark.parametrize("grid", [(14, 14), (7, 13), (3, 1), (1, 1)])
def test_feedback_maps_of_random_labels(grid):
    generator = torch.Generator().manual_seed(2)
    labels = F.interpolate(torch.rand(1, 1, 4, 4, generator=generator), grid, mode="bicubic")[0, 0]
    labels = (labels * 5).long()
    torch.testing.assert_close(feedback_map(labels), rivals.feedback_map(labels))


def test_long_lines_are_rounded_exactly():
    """One label along a line of 22 steps: the cell halfway between two rows is the even one."""
    labels = 1 + torch.arange(13 * 23).view(13, 23)
    for cell in rivals.straight_line((1, 0), (12, 22)):
        labels[cell] = 0
    torch.testing.assert_close(feedback_map(labels), rivals.feedback_map(labels))
