"""Views, windows, refinement and post-processing, each against its formula or a law."""

import itertools

import cv2
import numpy as np
import pytest
import reference
import torch

from itaclip import InputError
from itaclip.postprocess import class_areas, class_scores, close_labels, label_map, small_classes
from itaclip.refinement import pamr, pamr_strips, pamr_weights
from itaclip.sliding_window import WindowAssembler, sliding_windows, whole_image
from itaclip.views import gaussian_blur, grayscale, make_views


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- views --------------------------------------------------------------------------------------


def test_flips_are_undone():
    image, features = random(2, 3, 5, 7), random(2, 5, 7, 11)
    for view in make_views(0.7):
        if "flip" in view.name:
            assert torch.equal(
                view.undo(view.apply(features.movedim(-1, 1)).movedim(1, -1)), features
            )
            assert not torch.equal(view.apply(image), image)


def test_weights_are_those_of_the_paper():
    weights = {view.name: view.weight for view in make_views(0.7)}
    assert weights == pytest.approx(
        {"original": 0.7 / 3, "gray": 0.7 / 3, "blur": 0.7 / 3, "vflip": 0.15, "hflip": 0.15}
    )
    assert [view.name for view in make_views(None)] == ["original"]
    assert [view.name for view in make_views(1.0)] == ["original", "gray", "blur"]


@pytest.mark.parametrize("size", [(6, 7), (13, 29), (224, 31)])
def test_gray_and_blur_equal_their_formulas(size):
    image = random(3, *size)
    torch.testing.assert_close(grayscale(image), reference.gray(image))
    torch.testing.assert_close(gaussian_blur(image[None])[0], reference.blur(image))


def test_a_window_too_small_to_blur_is_refused():
    with pytest.raises(InputError, match="5 pixels"):
        gaussian_blur(random(3, 5, 20))


# ---- windows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(224, 224), (336, 448), (100, 300), (225, 224), (601, 337)])
def test_windows_cover_the_image_and_stay_inside(size):
    grid = sliding_windows(size, (224, 224), (28, 28))
    seen = torch.zeros(size)
    for top in grid.tops:
        for left in grid.lefts:
            seen[top : top + grid.window[0], left : left + grid.window[1]] += 1
    assert seen.min() >= 1
    assert grid.tops[-1] + grid.window[0] == size[0]
    assert grid.lefts[-1] + grid.window[1] == size[1]
    assert grid.window == (min(224, size[0]), min(224, size[1]))


def test_the_paper_counts_of_windows():
    assert len(sliding_windows((336, 448), (224, 224), (28, 28))) == 45
    assert len(sliding_windows((560, 1120), (224, 224), (28, 28))) == 429
    assert len(sliding_windows((560, 1120), (224, 224), (112, 112))) == 36


@pytest.mark.parametrize("output", [(61, 83), (120, 150), (29, 31), (3, 5)])
def test_accumulation_equals_upsample_sum_divide_resize(output):
    grid = sliding_windows((61, 83), (32, 48), (20, 28))
    maps = random(len(grid.tops), len(grid.lefts), 2, 3, 7)
    total, count = torch.zeros(7, 61, 83), torch.zeros(61, 83)
    for i, top in enumerate(grid.tops):
        for j, left in enumerate(grid.lefts):
            up = reference.upsample(maps[i, j].permute(2, 0, 1), grid.window)
            total[:, top : top + 32, left : left + 48] += up
            count[top : top + 32, left : left + 48] += 1
    expected = reference.upsample(total / count, output)
    assemble = WindowAssembler(grid, (2, 3), output)
    torch.testing.assert_close(assemble(maps).permute(2, 0, 1), expected, atol=1e-5, rtol=0)
    strip, edges = assemble.strips(maps), [0, output[0] // 3, output[0] - 1, output[0]]
    strips = [strip(*rows) for rows in itertools.pairwise(edges)]
    torch.testing.assert_close(torch.cat(strips), assemble(maps))


def test_whole_mode_is_one_upsampling_and_one_resize():
    grid = whole_image((45, 77))
    maps = random(1, 3, 5, 2)
    assembled = WindowAssembler(grid, (3, 5), (31, 90))([maps])
    expected = reference.upsample(reference.upsample(maps[0].permute(2, 0, 1), (45, 77)), (31, 90))
    torch.testing.assert_close(assembled.permute(2, 0, 1), expected, atol=1e-5, rtol=0)


# ---- refinement ---------------------------------------------------------------------------------


def in_strips(logits, guide, num_iter, dilations):
    """PAMR of strips that are made one after the other and thrown away."""
    last = 0

    def strip(first, stop):
        nonlocal last
        assert first == last, "strips come from top to bottom"
        last = stop
        return logits[first:stop].clone()

    return torch.cat(list(pamr_strips(strip, logits.shape[-1], guide, num_iter, dilations)))


@pytest.fixture(params=[None, 1], ids=["large tiles", "small tiles"])
def tiles(request, monkeypatch):
    """Small pictures make one band; with tiny tiles, bands are as low as the dilation allows."""
    if request.param:
        tile, waiting = dict(cpu=200, cuda=200), dict(cpu=5000, cuda=5000)
        monkeypatch.setattr("itaclip.refinement._TILE_ELEMENTS", tile)
        monkeypatch.setattr("itaclip.refinement._WAITING_ELEMENTS", waiting)


@pytest.mark.parametrize("refine", [pamr, in_strips])
@pytest.mark.parametrize(
    ("size", "dilations", "iterations"),
    [
        ((37, 53), (8, 16), 10),
        ((11, 13), (8, 16), 3),
        ((19, 7), (1, 2, 4), 5),
        ((97, 11), (2, 3), 4),
        ((1, 9), (3,), 2),
        ((17, 1), (2, 5), 3),
        ((1, 1), (8, 16), 2),
        ((32, 31), (16,), 2),  # bands end where the picture does
    ],
)
def test_pamr_equals_its_formula(size, dilations, iterations, refine, tiles):
    guide, logits = random(3, *size), random(5, *size, seed=1)
    guide[:, : size[0] // 2, : size[1] // 2] = 0.3  # a flat region: no deviation at all
    expected = reference.pamr(logits, guide, iterations, dilations)
    given = logits.permute(1, 2, 0).contiguous()
    found = refine(given, guide, iterations, dilations)
    torch.testing.assert_close(found.permute(2, 0, 1), expected, atol=1e-5, rtol=0)
    assert refine is in_strips or found.data_ptr() == given.data_ptr()


def test_the_division_of_pamr_changes_no_bit(monkeypatch):
    guide, logits = random(3, 53, 29), random(53, 29, 7, seed=1)
    whole = pamr(logits.clone(), guide, 6, (2, 3))
    for tile, waiting in ((1, 1), (29 * 7 * 3, 1), (29 * 7 * 6, 29 * 7 * 12), (90, 1 << 20)):
        monkeypatch.setattr("itaclip.refinement._TILE_ELEMENTS", dict(cpu=tile))
        monkeypatch.setattr("itaclip.refinement._WAITING_ELEMENTS", dict(cpu=waiting))
        assert torch.equal(pamr(logits.clone(), guide, 6, (2, 3)), whole)
        assert torch.equal(in_strips(logits, guide, 6, (2, 3)), whole)


def test_pamr_of_other_layouts_and_types(tiles):
    guide, logits = random(3, 23, 29), random(23, 29, 7, seed=1)
    expected = pamr(logits.clone(), guide, 4, (2, 3))
    channels_first = logits.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    part = torch.zeros(30, 40, 9)[3:26, 5:34, 1:8].copy_(logits)
    for given in (channels_first, part):
        assert not given.is_contiguous()
        assert pamr(given, guide, 4, (2, 3)) is given
        assert torch.equal(given, expected)
    turned = guide.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert torch.equal(pamr(logits.clone(), turned, 4, (2, 3)), expected)
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.01)):
        found = pamr(logits.to(dtype), guide, 4, (2, 3))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), expected, atol=tolerance, rtol=0)


def test_pamr_keeps_constants(tiles):
    guide, logits = random(3, 23, 29), random(23, 29, 7, seed=1)
    torch.testing.assert_close(pamr_weights(guide, (8, 16)).sum(-1), torch.ones(23 * 29))
    assert (pamr(torch.full((23, 29, 2), 4.0), guide, 10, (8, 16)) - 4).abs().max() < 1e-5
    assert torch.equal(pamr(logits.clone(), guide, 0, (2, 3)), logits)
    assert torch.equal(in_strips(logits, guide, 0, (2, 3)), logits)
    assert pamr(torch.empty(23, 29, 0), guide, 4, (2, 3)).shape == (23, 29, 0)


# ---- post-processing ----------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 0, 0, 1, 2, 2, 3], [0] * 5, [0, 1, 1]])
def test_scores_equal_softmax_and_grouped_maximum(classes, monkeypatch):
    logits = random(len(classes), 13, 17)
    expected = reference.class_scores(logits, classes, 7.0)
    monkeypatch.setattr("itaclip.postprocess._STRIP_ELEMENTS", dict(cpu=100))
    found = class_scores(logits.permute(1, 2, 0).contiguous(), classes, 7.0)
    torch.testing.assert_close(found.permute(2, 0, 1), expected)


@pytest.mark.parametrize("strip", [1, 10 * 4 * 3, 1 << 20])
def test_small_classes_are_found(strip, monkeypatch):
    monkeypatch.setattr("itaclip.postprocess._STRIP_ELEMENTS", dict(cpu=strip))
    scores = torch.full((10, 10, 4), 0.1)
    scores[:, :5, 0] = 0.9  # 50 pixels of background, which never counts
    scores[:, 5:, 1] = 0.8  # 45
    scores[:5, 5, 2] = 0.85  # 5 of 50: exactly 10 %
    areas = class_areas(scores)
    assert areas.tolist() == [50, 45, 5, 0]
    assert small_classes(areas, 0.1).tolist() == [2, 3]
    assert small_classes(areas, 0.0999).tolist() == [3]


def test_labels_are_those_of_the_best_scores(monkeypatch):
    monkeypatch.setattr("itaclip.postprocess._STRIP_ELEMENTS", dict(cpu=13 * 5 * 3))
    scores = random(17, 13, 5)
    scores[4, 5] = 3.0  # all equal
    assert torch.equal(label_map(scores, -9), scores.argmax(-1))
    assert label_map(scores, -9)[4, 5] == 0


def test_unsure_pixels_become_class_0():
    scores = torch.tensor([[[0.2, 0.7], [0.2, 0.3]]])
    assert label_map(scores, 0.5).tolist() == [[1, 0]]
    assert label_map(scores, 0.0).tolist() == [[1, 1]]


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("strip", [1, 31 * 9, 1 << 20])
def test_closing_equals_opencv_and_the_pixel_loop(size, strip, monkeypatch):
    monkeypatch.setattr("itaclip.postprocess._STRIP_ELEMENTS", dict(cpu=strip))
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (23, 31)))
    kernel = np.ones((size, size), np.uint8)
    opencv = cv2.morphologyEx(labels.numpy().astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    found = close_labels(labels, size)
    assert np.array_equal(found.numpy(), opencv)
    assert torch.equal(found, reference.closing(labels, size))


def test_closing_above_255_classes():
    labels = torch.from_numpy(np.random.default_rng(1).integers(0, 70_000, (11, 13)))
    assert torch.equal(close_labels(labels, 3), reference.closing(labels, 3))
    assert close_labels(labels, 3).dtype == torch.int64
