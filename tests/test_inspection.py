"""Attention maps against a slow computation; figures that show what they should."""

import numpy as np
import pytest
import torch
from conftest import bgr_image, normalised

import itaclip
from itaclip import InputError
from itaclip.predict.inspection import (
    attention_at,
    attention_figure,
    compare,
    comparison_figure,
    score_figure,
)

CLASSES = "sky; sea, ocean; boat"


def picture(height=96, width=128, seed=3):
    return bgr_image(height, width, seed).permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def model(tiny_clip_path):
    settings = dict(precision="fp32", short_side=48, pamr=None, device="cpu")
    return itaclip.load(tiny_clip_path, **settings)


@pytest.fixture(scope="module")
def last_block(tiny_clip):
    """q and k of the last block for a whole picture (3, 48, 64), written out with stock modules."""

    def of(inputs):
        visual = tiny_clip.visual
        patches = visual.conv1(inputs[None]).flatten(2).transpose(1, 2)
        cls = visual.class_embedding.expand(1, 1, -1)
        from itaclip.image_encoder import resize_positions

        x = torch.cat([cls, patches], 1) + resize_positions(visual.positional_embedding, (3, 4))
        x = visual.ln_pre(x).transpose(0, 1)
        blocks = visual.transformer.resblocks
        for block in blocks[:-1]:
            x = block(x)
        attn = blocks[-1].attn
        normed = blocks[-1].ln_1(x)[:, 0]  # N, D
        q, k, _ = (normed @ attn.in_proj_weight.T + attn.in_proj_bias).chunk(3, -1)
        return [t.unflatten(-1, (attn.num_heads, -1)).transpose(0, 1) for t in (q, k)]

    return of


def test_attention_is_that_of_the_formula(model, last_block):
    """Head means of softmax(s q kᵀ) and softmax(s k kᵀ + ω) at the pixel's own patch."""
    image = picture(48, 64)
    inputs = normalised(bgr_image(48, 64, 3).flip(0))
    with torch.no_grad():
        q, k = last_block(inputs)
    token = 1 + 2 * 4 + 1  # row 33 is in patch row 2 of 16 pixels, column 31 in patch column 1
    scale = q.shape[-1] ** -0.5
    expected = (scale * q @ k.transpose(1, 2)).softmax(-1)[:, token].mean(0)
    clip, naclip = attention_at(model, image, (33, 31), ["clip", "naclip"])
    assert clip.patch == (2, 1)
    assert np.allclose(clip.weights, expected[1:].reshape(3, 4), atol=1e-5)
    assert clip.cls == pytest.approx(float(expected[0]), abs=1e-5)

    rows, columns = np.mgrid[:3, :4]
    omega = torch.zeros(13, 13)
    omega[token, 1:] = torch.from_numpy(
        np.exp(-((rows - 2) ** 2 + (columns - 1) ** 2) / 50).astype(np.float32)
    ).flatten()
    logits = scale * k @ k.transpose(1, 2) + omega
    expected = logits.softmax(-1)[:, token].mean(0)
    assert np.allclose(naclip.weights, expected[1:].reshape(3, 4), atol=1e-5)


@pytest.mark.parametrize(("recipe", "terms"), [("clip", 1), ("itaclip", 2), ("maskclip", 1)])
def test_weights_sum_to_the_number_of_terms(recipe, terms, model):
    (found,) = attention_at(model, picture(), (50, 70), [recipe])
    assert found.weights.shape == (3, 4)
    assert found.weights.sum() + found.cls == pytest.approx(terms, abs=1e-4)


@pytest.mark.parametrize("at", [(0, 0), (95, 127), (40, 33), (7, 100)])
def test_the_heat_lies_on_the_pixel(at, model):
    """MaskCLIP's patches look at themselves alone, so the heat's peak is at the pixel."""
    (found,) = attention_at(model, picture(), at, ["maskclip"])
    assert found.weights[found.patch] == pytest.approx(1)
    heat = found.heat()
    assert heat.shape == (96, 128)
    assert heat.min() >= 0 and heat.max() <= 1
    peak = np.argwhere(heat >= heat.max() - 1e-6)
    assert np.abs(peak - at).max(axis=1).min() <= 16, "a patch covers 32 pixels of the picture"


def test_a_rest_that_no_patch_covers(model):
    """57x75 pixels become 48x63, so that the last 15 columns belong to no patch."""
    (found,) = attention_at(model, picture(57, 75), (56, 74), ["maskclip"])
    assert found.weights.shape == (3, 3)
    assert found.patch == (2, 2)
    assert found.heat().shape == (57, 75)
    assert found.heat()[56, 74] == pytest.approx(1)
    (found,) = attention_at(model, picture(57, 75), (28, 30), ["maskclip"])
    assert found.patch == (1, 1)
    peak = found.heat().max(0).argmax()
    assert peak == pytest.approx(24 * 75 / 63, abs=2), "the middle of columns 16 to 31 of 63"


def test_a_pixel_outside(model):
    for at in ((96, 0), (0, 128), (-1, 3)):
        with pytest.raises(InputError, match="a row from 0 to 95 and a column from 0 to 127"):
            attention_at(model, picture(), at)


def test_compare_segments_as_each_recipe_does(model):
    found = compare(model, picture(), CLASSES, recipes=["clip", "naclip"], at=(3, 4))
    for one in found:
        alone = model.with_recipe(one.recipe).segment(picture(), CLASSES)
        assert np.array_equal(one.segmentation.scores, alone.scores)
        (look,) = attention_at(model, picture(), (3, 4), [one.recipe])
        assert np.array_equal(look.weights, one.attention.weights)
    encoded = model.encode(picture())
    again = compare(model, encoded, CLASSES, recipes=["clip", "itaclip"])
    assert np.array_equal(again[0].segmentation.scores, found[0].segmentation.scores)
    assert again[0].attention is None


def drawn(figure):
    return [(ax.get_title(), len(ax.images)) for ax in figure.axes]


def test_figures_show_what_they_say(model):
    found = compare(model, picture(), CLASSES, recipes=["clip", "naclip"], at=(3, 4))
    figure = comparison_figure(found)
    titles = [title.split(" (")[0] for title, _ in drawn(figure)]
    assert titles == ["picture", "clip", "naclip", "pixel 3,4", "clip", "naclip"]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert legend == {name for one in found for name in one.segmentation.areas()}
    assert len(figure._repr_png_()) > 1000

    looks = [one.attention for one in found]
    assert [n for _, n in drawn(attention_figure(picture(), looks))] == [1, 2, 2]

    result = found[0].segmentation
    scores = score_figure(result, ["sea", "boat"])
    shown = {ax.get_title(): ax for ax in scores.axes}
    assert np.array_equal(shown["boat"].images[0].get_array(), result.scores[..., 2])
    assert shown["boat"].images[0].get_clim() == (0, 1)
    with pytest.raises(InputError, match="but got 'fish'"):
        score_figure(result, ["fish"])
    with pytest.raises(InputError, match="made without"):
        score_figure(model.segment(picture(), CLASSES, scores=False))
