"""Recipes as their users meet them: the tutorial, variations, and what is refused."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import reference
import reference_rivals
import torch
import torch.nn.functional as F
from conftest import random_clip
from guides import tiny_guide

from itaclip import InputError
from itaclip.evaluation.arguments import parse_arguments
from itaclip.evaluation.command import load_config
from itaclip.image_encoder import ImageEncoder
from itaclip.recipes import RECIPES, list_recipes, register, resolve_recipe

ROOT = Path(__file__).parent.parent
TUTORIAL = (ROOT / "docs/recipes.md").read_text()


def encoder(clip, recipe, **changes):
    depth = len(clip.visual.transformer.resblocks)
    if recipe == "rfclip":
        changes.setdefault("channels", (3, 40))
    if recipe == "trident":
        changes.setdefault("correlation", None)
    recipe = resolve_recipe(dict(recipe=recipe, **changes), depth)
    return ImageEncoder(clip.visual, recipe, guide=tiny_guide() if recipe.needs_guide else None)


def regions_for(own, images):
    """Quarters of the pictures, for recipes that need regions."""
    if not own.recipe.needs_regions:
        return None
    height, width = images.shape[-2:]
    rows = torch.arange(height)[:, None] * 2 // height
    columns = torch.arange(width)[None] * 2 // width
    return (2 * rows + columns).expand(len(images), -1, -1)


def images(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def queries(clip, count=5):
    text = torch.randn(count, clip.visual.proj.shape[1], generator=torch.Generator().manual_seed(4))
    return F.normalize(text, dim=-1)


@pytest.mark.parametrize("recipe", [name for name, own in RECIPES.items() if not own.joint])
@pytest.mark.parametrize("size", [(80, 112), (16, 16), (32, 16), (48, 50)])
def test_batches_and_small_grids(recipe, size, tiny_clip):
    """Features do not depend on the batch, and a grid of one patch is no special case."""
    own, both, text = encoder(tiny_clip, recipe), images(*size), queries(tiny_clip)
    regions = regions_for(own, both)
    together = own(both, text, regions)[0]
    assert together.isfinite().all()
    alone = torch.cat([own(image[None], text, regions_for(own, image[None]))[0] for image in both])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_attention_maps(recipe, tiny_clip):
    own = encoder(tiny_clip, recipe)
    maps = own.attention_maps(images(48, 80), regions_for(own, images(48, 80)))
    heads = tiny_clip.visual.transformer.resblocks[0].attn.num_heads
    assert maps.shape == (2, heads, 16, 16)
    assert maps.min() >= 0
    rows = maps[:, :, 1:].sum(-1)
    torch.testing.assert_close(rows, rows.new_full(rows.shape, rows.mean().item()))
    assert rows.mean().round(decimals=4) in (1.0, 2.0)  # the sums of SCLIP, ITACLIP, ResCLIP are 2


RIVALS = {
    "clip_surgery": [({}, {}), (dict(path_blocks=3), dict(start=10))],
    "gem": [
        ({}, {}),
        (dict(iterations=0), dict(iterations=0)),  # where the temperature is felt most
        (dict(iterations=2, inverse_temperature=8.0), dict(iterations=2, temperature=8.0)),
    ],
    "resclip": [
        ({}, {}),
        (dict(sfr_weight=None), dict(text=None)),
        (dict(rcs_layers=(3, 11), rcs_weight=0.6, sfr_weight=0.2, sfr_scale=1.8, feedback_thd=0.22),
         dict(rcs_layers=(3, 11), rcs_weight=0.6, sfr_weight=0.2, sfr_scale=1.8,
              feedback_thd=0.22)),
    ],
    "scclip": [
        ({}, {}),
        (dict(similarity_layer=6, early_layer=2, second_pass_layers=(3, 8), cls_weight=0.7,
              neighbours=5, outlier_quantile=0.8, similarity_threshold=0.7, sharpness=8.0),
         dict(similarity_layer=6, post_layer=2, second_pass_layers=(3, 8), cls_weight=0.7,
              neighbours=5, quantile=0.8, threshold=0.7, sharpness=8.0)),
    ],
    "rfclip": [
        (dict(channels=(3, 40, 17), spike=1.6), dict(channels=(3, 40, 17), factor=1.6)),
        (dict(channels=(3, 40), spike=1.4, smoothing=0.7, similarity_threshold=0.1),
         dict(channels=(3, 40), factor=1.4, share=0.7, threshold=0.1)),
    ],
    "pearl": [({}, {}), (dict(key_weight=0.5), dict(self_weight=0.5))],
}  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "changes", "own_names"),
    [(recipe, *case) for recipe, cases in RIVALS.items() for case in cases],
)
@pytest.mark.parametrize("size", [(80, 115), (48, 64)])
def test_rivals_equal_their_formulas(recipe, changes, own_names, size, tiny_clip):
    both, text = images(*size), queries(tiny_clip)
    found = encoder(tiny_clip, recipe, **changes)(both, text)[0]
    if recipe == "resclip":
        own_names = {"text": text, **own_names}
    slow = getattr(reference_rivals, recipe)
    expected = torch.stack([slow(tiny_clip, image, **own_names) for image in both])
    torch.testing.assert_close(F.normalize(found, dim=-1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("changes", [{}, dict(terms=("qq", "kk"), residual=True)])
def test_clipseg_equals_its_formula(changes, tiny_clip):
    """Our reading, written out: a map among patches alike in the middle, values of deep blocks."""
    image, (h, w) = images(64, 83, batch=1)[0], (4, 5)
    outputs, _ = reference_rivals.inputs_and_outputs(tiny_clip.visual, image)
    last, x = tiny_clip.visual.transformer.resblocks[-1], outputs[-2]
    with torch.no_grad():
        similarity = torch.zeros(h * w, h * w)
        for layer in (6, 7, 8):
            patches = outputs[layer][1:] - outputs[layer][1:].mean(0)
            for p in range(h * w):
                for m in range(h * w):
                    similarity[p, m] += F.cosine_similarity(patches[p], patches[m], dim=0) / 3
        logits = 5.0 * (similarity - similarity.mean())
        coherent = torch.eye(1 + h * w)
        coherent[1:, 1:] = logits.masked_fill(logits < 0, -torch.inf).softmax(-1)
        own, v = reference.attention_map(last, x, changes.get("terms", ["kk"]))
        deep = (outputs[9] + outputs[10]) / 2
        v = 0.7 * v + 0.3 * reference_rivals.projections(last, deep)[2]
        out = reference_rivals.merge(last, (own + coherent) / 2 @ v)
        out = out + x if changes else out
        expected = reference_rivals.features(tiny_clip.visual, out[1:], (h, w))
    found = encoder(tiny_clip, "clipseg", **changes)(image[None])[0]
    torch.testing.assert_close(F.normalize(found, dim=-1)[0], expected, atol=2e-5, rtol=0)


def test_only_resclip_reads_the_words(tiny_clip):
    one, other = queries(tiny_clip, 6).split(3)
    for recipe in RECIPES:
        own = encoder(tiny_clip, recipe)
        both = images(64, 64)
        found = [own(both, text, regions_for(own, both))[0] for text in (one, other)]
        same = torch.equal(*found)
        assert same != own.recipe.needs_text, recipe
    first = encoder(tiny_clip, "resclip", sfr_weight=None)
    assert not first.recipe.needs_text
    torch.testing.assert_close(
        first(images(64, 64), one)[0], encoder(tiny_clip, "resclip")(images(64, 64))[0]
    )


def test_modules_of_clipseg_combine_with_other_recipes(tiny_clip):
    plain = encoder(tiny_clip, "itaclip")(images(64, 64))[0]
    off = encoder(
        tiny_clip, "itaclip", coherence_layers=(6,), coherence_weight=0, value_layers=(9,),
        value_weight=0.0,
    )  # fmt: skip
    assert torch.equal(off(images(64, 64))[0], plain)
    for changes in (dict(coherence_layers=(6,)), dict(value_layers=(9, 10))):
        changed = encoder(tiny_clip, "itaclip", **changes)(images(64, 64))[0]
        assert not torch.allclose(changed, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("attention", "words"),
    [
        (dict(recipe="resclip", rcs_weight=1.5), ["rcs_weight", "0 to 1", "1.5"]),
        (dict(recipe="resclip", lamda=0.5), ["'lamda'", "sfr_scale"]),
        (dict(recipe="scclip", similarity_layer=12), ["similarity_layer", "1 to 11"]),
        (dict(recipe="scclip", early_layer="last"), ["early_layer", "'last'"]),
        (dict(recipe="gem", iterations=-1), ["iterations", "-1"]),
        (dict(recipe="clip_surgery", path_blocks=0), ["path_blocks", "from 1"]),
        (dict(recipe="pearl", key_weight="a"), ["key_weight", "'a'"]),
        (dict(recipe="naclip", middle_layers="scaled"), ["'scaled'", "naclip"]),
    ],
)
def test_bad_values_get_one_sentence(attention, words):
    with pytest.raises(InputError) as error:
        resolve_recipe(attention, 12)
    assert all(word in str(error.value) for word in words), error.value


def test_channels_belong_to_a_width(tiny_clip):
    with pytest.raises(InputError, match=r"attention\.channels"):
        ImageEncoder(tiny_clip.visual, resolve_recipe("rfclip", 12))


@pytest.mark.parametrize("recipe", ["resclip", "scclip", "clipseg"])
def test_another_depth_wants_its_own_blocks(recipe):
    clip = random_clip(layers=6, width=64)
    with pytest.raises(InputError, match=r"12 blocks.*6"):
        encoder(clip, recipe)
    keys = {
        "resclip": ["rcs_layers"],
        "scclip": ["similarity_layer", "early_layer", "second_pass_layers"],
        "clipseg": ["coherence_layers", "value_layers"],
    }
    scaled = encoder(clip, recipe, **dict.fromkeys(keys[recipe], "scaled"))
    assert scaled(images(64, 64))[0].isfinite().all()
    assert scaled.recipe.depth == 6


def test_paths_count_from_the_end():
    clip = random_clip(layers=3, width=64)
    short, long = (encoder(clip, "gem", path_blocks=n)(images(48, 48))[0] for n in (3, 9))
    assert torch.equal(short, long)
    assert not torch.allclose(short, encoder(clip, "gem", path_blocks=1)(images(48, 48))[0])


def test_the_tutorial(tmp_path, monkeypatch, tiny_clip):
    method, config = (b for b in re.findall(r"```python\n(# .*?)```", TUTORIAL, re.S))
    assert len((method + config).splitlines()) < 60
    (tmp_path / "my_method.py").write_text(method)
    config = config.replace('"configs/', f'"{ROOT}/configs/')
    (tmp_path / "cfg_my_method.py").write_text(config)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    try:
        loaded = load_config(parse_arguments(["--config", str(tmp_path / "cfg_my_method.py")]))
        assert loaded.model.attention == dict(recipe="global_patches", weight=0.3)
        own = encoder(tiny_clip, "global_patches", weight=0.3)
        features = own(images(64, 80))[0]
        assert features.isfinite().all()
        rows = own.attention_maps(images(64, 80))[:, :, 1:].sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))
    finally:
        RECIPES.pop("global_patches", None)
        sys.modules.pop("my_method", None)
        importlib.invalidate_caches()


def test_every_recipe_is_in_the_docs():
    rows = [line for line in TUTORIAL.splitlines() if line.startswith("| `")]
    named = " ".join(row.split("|")[1] for row in rows)
    for name in RECIPES:
        stem = name.split("_", 1)
        assert f"`{name}`" in named or f"`_{stem[-1]}`" in named, name


def test_a_name_is_given_once():
    with pytest.raises(InputError, match="'naclip' is taken by Hajimiri"):
        register("naclip")(type(RECIPES["naclip"]))
    with pytest.raises(InputError, match="'pearl' is taken"):
        RECIPES["pearl"] = RECIPES["clip"]


def test_recipes_are_listed_with_source_and_filtered():
    entries = list_recipes()
    assert [entry.name for entry in entries] == list(RECIPES)
    assert all(entry.source for entry in entries)
    assert all(entry.exact or entry.left_out for entry in entries), "nothing says what it is"
    assert {entry.name for entry in list_recipes("naclip_*")} == {
        "naclip_vanilla", "naclip_gav", "naclip_n_only",
    }  # fmt: skip
    assert [entry.name for entry in list_recipes("*SC-CLIP*")] == ["scclip"]
    readers = [entry.name for entry in list_recipes(needs="text")]
    assert readers == ["resclip"] and "resclip" not in {
        entry.name for entry in list_recipes(without="text")
    }
    assert list_recipes("scclip")[0].keys["similarity_layer"] == 9
    with pytest.raises(InputError, match="'txt'"):
        list_recipes(needs="txt")
