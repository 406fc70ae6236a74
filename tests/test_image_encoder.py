"""Dense encoder and attention: stock equality, position embeddings, NACLIP's table."""

import pytest
import reference
import torch
from conftest import random_clip

from itaclip import InputError
from itaclip.image_encoder import ImageEncoder, compute_dtype, resize_positions
from itaclip.recipes import RECIPES, LastBlock, resolve_recipe
from itaclip.recipes.attention import gaussian_neighbourhood


def stock_tokens(visual, images):
    """All output tokens of openai-clip's own modules, run as its ``forward`` does."""
    h, w = (side // visual.conv1.kernel_size[0] for side in images.shape[-2:])
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.expand(len(images), 1, -1)
    x = torch.cat([cls, x], dim=1) + reference.position_embedding(visual, h, w)
    x = visual.transformer(visual.ln_pre(x).permute(1, 0, 2)).permute(1, 0, 2)
    return visual.ln_post(x) @ visual.proj


def encoder(clip, recipe="clip", **kwargs):
    depth = len(clip.visual.transformer.resblocks)
    return ImageEncoder(clip.visual, resolve_recipe(recipe, depth), **kwargs)


def test_the_recipe_clip_is_the_stock_encoder(tiny_clip):
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cls, tokens = tiny_clip.encode_image(images), stock_tokens(tiny_clip.visual, images)
    patches, own_cls = encoder(tiny_clip)(images)
    torch.testing.assert_close(own_cls, cls, atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.flatten(1, 2), tokens[:, 1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(48, 112), (112, 48), (80, 33), (16, 16)])
def test_other_sizes_than_the_trained_one(size, tiny_clip):
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        tokens = stock_tokens(tiny_clip.visual, images)
    patches, _ = encoder(tiny_clip)(images)
    assert patches.shape[1:3] == (size[0] // 16, size[1] // 16)
    torch.testing.assert_close(patches.flatten(1, 2), tokens[:, 1:], atol=1e-5, rtol=0)


def test_positions_are_resized_when_only_the_count_agrees():
    table = torch.randn(1 + 4 * 4, 5, generator=torch.Generator().manual_seed(2))
    assert resize_positions(table, (4, 4)) is table
    resized = resize_positions(table, (2, 8))
    assert resized.shape == table.shape
    assert not torch.allclose(resized, table)
    torch.testing.assert_close(resized[0], table[0])
    # Rows and columns are not mixed up.
    transposed = torch.cat([table[:1], table[1:].view(4, 4, 5).transpose(0, 1).reshape(16, 5)])
    other = resize_positions(transposed, (8, 2))
    expected = resized[1:].view(2, 8, 5).transpose(0, 1).reshape(16, 5)
    torch.testing.assert_close(other[1:], expected)


@pytest.mark.parametrize(
    ("sigma", "counts"), [(5.0, (57, 37, 21)), (1.0, (1, 1, 1)), (10.0, (221, 137, 69))]
)
def test_naclip_table_6(sigma, counts):
    """NACLIP Table 6: patches whose logit rises by more than 0.7, 0.8, 0.9, far from borders."""
    grid = (33, 37)
    omega = gaussian_neighbourhood(grid, sigma)
    centre = 1 + 16 * grid[1] + 18
    for threshold, count in zip((0.7, 0.8, 0.9), counts, strict=True):
        assert int((omega[centre] > threshold).sum()) == count


def test_gaussian_equals_its_formula_and_leaves_cls_alone():
    omega = gaussian_neighbourhood((3, 5), 2.0)
    torch.testing.assert_close(omega, reference.gaussian(3, 5, 2.0))
    assert omega[0].abs().max() == 0
    assert omega[:, 0].abs().max() == 0


def test_every_recipe_names_its_source():
    assert {"clip", "maskclip", "sclip", "clearclip", "naclip", "itaclip"} <= set(RECIPES)
    assert all(recipe.source for recipe in RECIPES.values())


def test_recipes_can_be_varied():
    varied = resolve_recipe(dict(recipe="itaclip", middle_layers=[3, 5], terms=["qq"]), 12)
    assert (varied.middle_layers, varied.terms) == ((3, 5), ("qq",))
    assert resolve_recipe(dict(recipe="itaclip", middle_layers=()), 24).middle_layers == ()
    assert resolve_recipe(dict(recipe="itaclip", gaussian_std=5.0), 12) == resolve_recipe(
        "itaclip_gaussian", 12
    ).__class__(
        terms=("qq", "kk"), feed_forward=False, middle_layers=(7, 8, 10), depth=12,
        gaussian_std=5.0, source=RECIPES["itaclip"].source,
    )  # fmt: skip
    with pytest.raises(InputError, match="middle_layers"):
        resolve_recipe(LastBlock(middle_layers=(7, 7)), 12)


def test_lowered_weights_follow_a_change_of_weights():
    clip = random_clip(layers=2, width=64)
    own = ImageEncoder(clip.visual, resolve_recipe("clip", 2), "bf16")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = own(images)[0]
    state = {key: value + 0.1 for key, value in clip.visual.state_dict().items()}
    clip.visual.load_state_dict(state, assign=True)
    assert not torch.allclose(own(images)[0], before)
    assert not any("lowered" in key for key in own.state_dict())


def test_precisions_resolve():
    cpu = torch.device("cpu")
    assert compute_dtype("fp32", cpu) == torch.float32
    assert compute_dtype("bf16", cpu) == torch.bfloat16
    assert compute_dtype("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("recipe", reference.TABLE)
def test_gpu_equals_cpu(recipe, tiny_clip):
    images = torch.randn(2, 3, 80, 96, generator=torch.Generator().manual_seed(0))
    own = encoder(tiny_clip, recipe)
    expected = own(images)[0]
    try:
        found = own.to("cuda")(images.cuda())[0].cpu()
    finally:
        own.to("cpu")
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
