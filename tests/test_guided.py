"""Recipes that a second backbone guides, against slow references; windows that are stitched."""

import copy

import pytest
import reference_guided as slow
import torch
import torch.nn.functional as F
from conftest import bgr_image, normalised, random_clip
from guides import CLIP_MEAN, CLIP_STD, guide_folder, tiny_guide

from itaclip import InputError, ITACLIPSegmentor
from itaclip.image_encoder import ImageEncoder
from itaclip.predict.words import make_vocabulary
from itaclip.recipes import resolve_recipe
from itaclip.recipes.cass import clusters_of, move_words
from itaclip.recipes.corrclip import components
from itaclip.recipes.trident import trident_size
from itaclip.sliding_window import WindowAssembler, sliding_windows

STATS = (CLIP_MEAN, CLIP_STD)
SMALL = dict(mode="slide", crop_size=(48, 48), stride=(32, 32))


@pytest.fixture(scope="module")
def clip():
    return random_clip(layers=11, text_layers=1)


def model(clip, attention, test_cfg=SMALL, guide="vit", words="cat; dog, puppy; tree", **settings):
    return ITACLIPSegmentor(
        clip_model=clip,
        vocabulary=make_vocabulary(words, None),
        attention=attention,
        guide=guide_folder(guide) if isinstance(guide, str) else guide,
        test_cfg=test_cfg,
        **settings,
    )


def picture(height, width):
    return normalised(bgr_image(height, width))


def encoder(clip, attention, guide="vit"):
    recipe = resolve_recipe(attention, len(clip.visual.transformer.resblocks))
    return ImageEncoder(clip.visual, recipe, guide=tiny_guide(guide))


def close(found, expected, atol=3e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


# ---- ProxyCLIP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(61, 85), (40, 48), (56, 112)])
def test_proxyclip_equals_its_formula(clip, size):
    """Windows inside, moved inside, padded to 56, and smaller than the crop."""
    own, image = model(clip, "proxyclip"), picture(*size)
    guide = own.image_encoder.guide.model
    expected = slow.proxyclip_logits(clip, guide, image, own.text_features, STATS, 48, 32)
    close(own.query_logits(image).permute(2, 0, 1), expected)


def test_proxyclip_with_the_mean_of_the_picture(clip):
    image = picture(61, 85)
    own = model(clip, dict(recipe="proxyclip", mean="picture", shift=1.1, sharpness=5.0))
    guide, means = own.image_encoder.guide.model, []
    for _, _, window in slow.windows_of(image, 48, 32):
        x = slow.unit(slow.vit(guide, slow.pad(window)[0], *STATS)[0])
        means.append((x @ x.T).mean())
    mean = torch.stack(means).mean()
    expected = slow.proxyclip_logits(
        clip, guide, image, own.text_features, STATS, 48, 32, beta=1.1, gamma=5.0, mean=mean
    )
    close(own.query_logits(image).permute(2, 0, 1), expected)


def test_proxyclip_lies_on_the_guides_grid(clip):
    own, both = encoder(clip, "proxyclip"), torch.randn(2, 3, 48, 80)
    assert own(both)[0].shape == (2, 6, 10, 32)
    assert own.attention_maps(both).shape == (2, 2, 16, 16)


# ---- GLA-CLIP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, dict(steps=1, threshold=0.3, size_factor=4.0)])
def test_gla_clip_equals_its_formula(clip, changes):
    own, image = model(clip, dict(recipe="gla_clip", **changes)), picture(50, 75)
    names = dict(threshold="rho", steps="steps", size_factor="size_factor")
    expected = slow.gla_clip_logits(
        clip,
        own.image_encoder.guide.model,
        image,
        own.text_features,
        STATS,
        48,
        32,
        **{names[key]: value for key, value in changes.items()},
    )
    close(own.query_logits(image).permute(2, 0, 1), expected)


# ---- Trident ------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", ["vit", "vit16"])
@pytest.mark.parametrize("size", [(64, 80), (48, 48)])
def test_trident_without_sam_is_a_splice(clip, guide, size):
    own = model(clip, dict(recipe="trident", correlation=None), dict(SMALL, merge="stitch"), guide)
    image = picture(*size)
    features = own.extract_feat(image)
    y, grid = slow.trident_map(clip, own.image_encoder.guide.model, image, STATS, 48, 32)
    close(features.features[0], slow.to_features(clip, y, grid))
    logits = (features.features[0] @ own.text_features.T).permute(2, 0, 1)
    expected = slow.reference.upsample(logits, (70, 99))
    close(own.query_logits(image, (70, 99)).permute(2, 0, 1), expected)


@pytest.mark.parametrize("changes", [{}, dict(correlation=3.0, negative=False)])
def test_trident_correlates_by_sam(clip, changes):
    guide = dict(model=guide_folder("vit16"), sam=guide_folder("sam"))
    own = model(clip, dict(recipe="trident", **changes), dict(SMALL, merge="stitch"), guide)
    image = picture(64, 96)
    encoder = own.image_encoder
    y, grid = slow.trident_map(clip, encoder.guide.model, image, STATS, 48, 32)
    options = dict(c=changes.get("correlation", 1.2), negative=changes.get("negative", True))
    y, grid = slow.sam_correlation(y, grid, encoder.sam.model, image, STATS, **options)
    close(own.extract_feat(image).features[0], slow.to_features(clip, y, grid), atol=1e-4)


def test_trident_sizes():
    """Multiples stay; the long side first, the other in proportion; the window at least."""
    assert trident_size((160, 320), (336, 336)) == (160, 320)
    assert trident_size((448, 597), (336, 336)) == (464, 608)
    assert trident_size((448, 672), (336, 336)) == (448, 672)
    assert trident_size((300, 200), (336, 336)) == (336, 336)
    assert trident_size((200, 599), (336, 336)) == (336, 608)


def test_trident_says_what_it_needs(clip):
    with pytest.raises(InputError, match="'trident' correlates patches by SAM; give its encoder"):
        model(clip, "trident", dict(SMALL, merge="stitch"))
    with pytest.raises(InputError, match="merge: the recipe 'trident' correlates the whole pict"):
        model(clip, "trident", guide=dict(model=guide_folder(), sam=guide_folder("sam")))


# ---- CASS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, dict(swapped=False, stretch=False)])
def test_cass_equals_its_formula(clip, changes):
    own = encoder(clip, dict(recipe="cass", published_colours=False, **changes))
    window = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(2))
    _, _, k, _, grid = slow.vit(own.guide.model, window, *STATS)
    keys = k.unflatten(1, (2, -1)).transpose(0, 1)
    features, cls = slow.cass(clip, keys, grid, window, **changes)
    found, own_cls = own(window[None])
    close(F.normalize(found[0], dim=-1), features, atol=2e-4)
    close(F.normalize(own_cls[0], dim=-1), cls)


def test_cass_shows_the_guide_the_published_colours(clip):
    own = encoder(clip, "cass")
    window = torch.randn(1, 3, 48, 48) * 0.4
    shifted = window * slow.column([0.229, 0.224, 0.255]) + slow.column([0.485, 0.456, 0.406])
    shifted = (shifted * 255).to(torch.uint8).float() / 255
    expected = (shifted - slow.column(slow.IMAGENET[0])) / slow.column(slow.IMAGENET[1])
    close(own.guide.prepared(window, own.recipe.guide_reads), expected, atol=1e-5)


def test_cass_moves_the_words_and_shares_cls(clip):
    values = dict(global_weight=0.3, patch_weight=0.4, cluster_distance=0.9)
    for cls in ("picture", "window"):
        own = model(clip, dict(recipe="cass", cls=cls, **values), words="cat; dog; tree; sea; car")
        image = picture(48, 80)
        _, maps = own.similarity_maps(image)
        kept = own.extract_feat(image)
        whole = F.normalize(own.image_encoder.cls_features(image[None]), dim=-1)[0]
        for index, features in enumerate(kept.features):
            if cls == "window":
                left = (0, 32)[index]
                crop = image[None, :, :, left : left + 48]
                whole = F.normalize(own.image_encoder.cls_features(crop), dim=-1)[0]
            expected = slow.cass_similarities(features, own.text_features, whole, 0.3, 0.4, 0.9)
            close(maps[0][index], expected)


def test_words_of_one_cluster_by_hand():
    text = F.normalize(torch.tensor([[1.0, 0.05, 0], [1, -0.05, 0], [0, 0, 1]]), dim=-1)
    clusters = clusters_of(text, 0.1)
    assert clusters[0] == clusters[1] != clusters[2]
    patches = torch.eye(3)[[1, 0, 0]]
    moved = move_words(text, clusters, torch.tensor([0.2, 0.3, 0.1]), patches, 0.5)
    assert torch.equal(moved[0], text[0]), "the word less like [CLS] stays"
    close(moved[1], F.normalize((text[1] + torch.tensor([1.0, 0, 0])) / 2, dim=-1))


def test_cass_refuses_a_guide_with_other_heads(clip):
    wide = random_clip(layers=3, width=192, text_layers=1)
    with pytest.raises(InputError, match="'cass' pairs heads, but CLIP has 3 and the guide 2"):
        encoder(wide, "cass")


# ---- CorrCLIP -----------------------------------------------------------------------------------


def blocks_of_regions(height, width, numbers):
    """A map with a chessboard of regions, (H, W)."""
    rows, columns = torch.arange(height) * 3 // height, torch.arange(width) * 2 // width
    return torch.tensor(numbers)[(2 * rows[:, None] + columns[None])]


@pytest.mark.parametrize("numbers", [[0, 3, 5, 5, 9, 2], [4, 3, 5, 5, 9, 2], [0, 0, 1, 1, 1, 1]])
def test_corrclip_equals_its_formula(numbers):
    clip = random_clip(layers=12, text_layers=1)
    own = encoder(clip, "corrclip")
    window = torch.randn(3, 56, 72, generator=torch.Generator().manual_seed(8))
    regions = blocks_of_regions(56, 72, numbers)
    _, q, k, _, grid = slow.vit(own.guide.model, window, *STATS)
    expected = slow.corrclip(clip, q, k, grid, window, regions)
    found, _ = own(window[None], regions=regions[None])
    close(F.normalize(found[0], dim=-1), expected, atol=1e-4)


def test_number_zero_can_be_the_only_one_without_a_region():
    """Without a 0, the smallest number is a region like the others."""
    clip = random_clip(layers=12, text_layers=1)
    window, regions = torch.randn(1, 3, 48, 48), blocks_of_regions(48, 48, [4, 3, 5, 5, 9, 2])
    smallest, zero = (
        encoder(clip, dict(recipe="corrclip", unsegmented=rule))(window, regions=regions[None])[0]
        for rule in ("smallest", "zero")
    )
    assert (smallest - zero).abs().max() > 1e-3
    with_zero = regions.where(regions != 2, 0)[None]
    both = [
        encoder(clip, dict(recipe="corrclip", unsegmented=rule))(window, regions=with_zero)[0]
        for rule in ("smallest", "zero")
    ]
    close(*both)


def test_components_are_joined_through_others():
    joined = torch.eye(5, dtype=torch.bool)
    for i, j in ((0, 3), (3, 4)):
        joined[i, j] = joined[j, i] = True
    assert components(joined).tolist() == [0, 1, 2, 0, 0]


# ---- what all share -----------------------------------------------------------------------------

CASES = {
    "proxyclip": {},
    "gla_clip": {},
    "cass": {},
    "trident": dict(attention=dict(recipe="trident", correlation=None)),
    "trident, stitched": dict(
        attention=dict(recipe="trident", correlation=None), test_cfg=dict(SMALL, merge="stitch")
    ),
    "proxyclip, stitched": dict(attention="proxyclip", test_cfg=dict(SMALL, merge="stitch")),
}


@pytest.mark.parametrize("name", CASES)
def test_batches_views_and_kept_features_change_nothing(clip, name):
    image = picture(61, 85)
    settings = dict(attention=name, image_engineering_weight=0.7) | CASES[name]
    own = model(clip, **settings)
    expected = own.query_logits(image, (70, 99))
    kept = own.extract_feat(image)
    close(own.query_logits(kept, (70, 99)), expected, atol=1e-6)
    close(own.variant(window_batch=1).query_logits(image, (70, 99)), expected)
    other = own.variant(vocabulary=make_vocabulary("sea; road", None))
    close(other.query_logits(kept, (70, 99)), other.query_logits(image, (70, 99)), atol=1e-6)


@pytest.mark.parametrize("recipe", ["proxyclip", "gla_clip", "cass", "corrclip", "trident"])
def test_without_a_guide_one_sentence_says_so(clip, recipe):
    attention = dict(recipe=recipe)
    if recipe == "corrclip":
        attention["spatial_layers"] = (5,)
    with pytest.raises(InputError, match=f"guide: the recipe '{recipe}' needs a second backbone"):
        model(clip, attention, guide=None)


def test_corrclip_without_regions_says_so(clip):
    with pytest.raises(InputError, match="regions: the recipe 'corrclip'"):
        model(clip, dict(recipe="corrclip", spatial_layers=(5,)))


# ---- windows that meet --------------------------------------------------------------------------


def test_windows_on_the_grid_are_laid_side_by_side():
    windows = sliding_windows((64, 96), (32, 48), (32, 48))
    whole = torch.randn(4, 6, 2)
    parts = [whole[r : r + 2, c : c + 3] for r in (0, 2) for c in (0, 3)]
    together = WindowAssembler.onto_grid(windows, (2, 3), (4, 6))
    close(together(torch.stack(parts).split(2)), whole, atol=1e-6)


@pytest.mark.parametrize(("size", "crop", "stride"), [((64, 80), 48, 32), ((61, 83), 48, 27)])
def test_overlapping_windows_are_averaged_between_patches(size, crop, stride):
    """A map that is linear in the place comes out linear, also off the grid."""
    windows = sliding_windows(size, (crop, crop), (stride, stride))
    centres = windows.centres((3, 3))
    maps = centres.view(len(windows), 3, 3, 2)
    h, w = size[0] // 16, size[1] // 16
    assemble = WindowAssembler.onto_grid(windows, (3, 3), (h, w))
    found = assemble(maps.split(len(windows.lefts)))
    y = (torch.arange(h) + 0.5) * size[0] / h
    x = (torch.arange(w) + 0.5) * size[1] / w
    inner = (slice(1, -1), slice(1, -1))  # at the border the nearest patch stands for what is out
    close(found[..., 0][inner], y[:, None].expand(h, w)[inner], atol=1e-3)
    close(found[..., 1][inner], x.expand(h, w)[inner], atol=1e-3)


@pytest.mark.parametrize(
    "attention", ["naclip", "itaclip", "scclip", "gem", "pearl", "proxyclip", "gla_clip", "cass"]
)
def test_one_window_is_stitched_already(attention):
    clip = random_clip(layers=12, text_layers=1)
    own = model(clip, attention, dict(mode="slide", crop_size=(96, 96), stride=(48, 48)))
    stitched = own.variant(test_cfg=dict(mode="slide", crop_size=(96, 96), stride=(48, 48),
                                         merge="stitch"))  # fmt: skip
    image = picture(64, 80)
    assert torch.equal(stitched.query_logits(image), own.query_logits(image))


def test_stitched_values_by_hand(clip):
    """MaskCLIP looks at nothing else: its stitched values are the mean of the windows'."""
    image = picture(64, 80)
    own = model(clip, "maskclip", dict(SMALL, merge="stitch"), guide=None)
    last, total, count = clip.visual.transformer.resblocks[-1], torch.zeros(4, 5, 128), 0
    count = torch.zeros(4, 5, 1)
    for top, left, window in slow.windows_of(image, 48, 32):
        v = slow.project(last, slow.tokens_before(clip, window)[0][-1])[2][1:].reshape(3, 3, -1)
        at = (slice(top // 16, top // 16 + 3), slice(left // 16, left // 16 + 3))
        total[at] += v
        count[at] += 1
    y = last.attn.out_proj((total / count).flatten(0, 1))
    close(own.extract_feat(image).features[0], slow.to_features(clip, y, (4, 5)))


def test_stitched_attention_looks_across_windows(clip):
    """A change in the last window reaches the first one."""
    image = picture(48, 112)
    changed = image.clone()
    changed[:, :, 96:] += 2.0
    for merge, reaches in (("average", False), ("stitch", True)):
        own = model(clip, "clip", dict(SMALL, merge=merge), guide=None)
        moved = (own.query_logits(changed) - own.query_logits(image))[:, :30].abs().max()
        assert bool(moved > 1e-4) == reaches


def test_flipped_views_are_turned_back_before_they_meet(clip):
    """Flips of the whole picture and flips of its windows give the same map."""
    half = picture(48, 40)
    image = torch.cat([half, half.flip(-1)], dim=-1)
    own = model(
        clip, "naclip", dict(SMALL, merge="stitch"), guide=None, image_engineering_weight=0.0
    )
    found = own.query_logits(image)
    plain = own.variant(image_engineering_weight=None).query_logits(image.flip(-1)).flip(1)
    both = (
        plain + own.variant(image_engineering_weight=None).query_logits(image.flip(1)).flip(0)
    ) / 2
    close(found, both, atol=1e-4)


def test_a_recipe_that_cannot_be_stitched_says_so(clip):
    attention = dict(recipe="resclip", rcs_layers=(5, 6))
    with pytest.raises(InputError, match="windows of the recipe 'resclip' cannot be stitched"):
        model(clip, attention, dict(SMALL, merge="stitch"), guide=None)


DEVICE_CASES = {
    "proxyclip": {},
    "gla_clip": dict(test_cfg=dict(SMALL, merge="stitch"), propagation="lposs"),
    "cass": {},
    # SAM's own encoder indexes by a tensor on the host, which devices allow and the pretence not.
    "trident": dict(
        attention=dict(recipe="trident", correlation=None), test_cfg=dict(SMALL, merge="stitch")
    ),
    "corrclip": dict(
        attention=dict(recipe="corrclip", spatial_layers=(5,)), regions=dict(source="slic")
    ),
    "maskclip": dict(propagation=dict(method="lposs_plus", side=3, steps=2)),
    "pearl": dict(propagation="pearl"),
}


@pytest.mark.parametrize("name", DEVICE_CASES)
def test_nothing_mixes_devices(clip, name):
    """On a pretended device (see pretend.py) labels are the CPU's."""
    from pretend import pretended

    image = picture(48, 80)
    own = model(copy.deepcopy(clip), **(dict(attention=name) | DEVICE_CASES[name]))
    expected, _ = own.segment(image, (50, 82))
    with pretended():
        found, _ = own.to("gpu").segment(image.to("gpu"), (50, 82))
        found = found.cpu()
    assert (found == expected).float().mean() > 0.99


# ---- through the other doors --------------------------------------------------------------------


def test_single_pictures_figures_and_comparisons():
    """load(), compare and the look inside, with the guide that ships with the project."""
    import itaclip
    from itaclip.predict.inspection import attention_at, compare

    own = itaclip.load(
        "storybook-tiny",
        guide="storybook-guide",
        recipe="proxyclip",
        crop_size=48,
        stride=32,
        pamr=None,
        regions=dict(source="slic", rule="vote"),
        device="cpu",
        precision="fp32",
    )
    pixels = bgr_image(50, 70).flip(0).permute(1, 2, 0).numpy()
    recipes = ("proxyclip", "gla_clip", "cass", "corrclip", "naclip")
    for found in compare(own, pixels, "sea; sky; sand", recipes=recipes, at=(10, 20)):
        assert found.segmentation.labels.shape == (50, 70)
        assert found.attention.weights.shape == (6, 8)
        total = found.attention.weights.sum() + found.attention.cls
        assert total == pytest.approx(1, abs=1e-3)
    (look,) = attention_at(own, pixels, (10, 20), ("proxyclip",))
    assert look.weights.max() > 0
    encoded = own.encode(pixels)
    words = own.segment(encoded, "red; blue"), own.segment(pixels, "red; blue")
    assert (words[0].labels == words[1].labels).all()


def test_the_command_line_takes_a_guide(tmp_path):
    from PIL import Image

    from itaclip.__main__ import main

    Image.fromarray(bgr_image(50, 70).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    common = ["--model", "storybook-tiny", "--guide", "storybook-guide", "--device", "cpu"]
    options = ["--propagation", "lposs,neighbours=30", "--merge", "stitch", "--recipe", "proxyclip"]
    words = ["--classes", "sea; sky", "--out", str(tmp_path / "out")]
    assert not main(["segment", str(tmp_path / "a.png"), *common, *options, *words])
    assert list((tmp_path / "out").rglob("*.png"))
