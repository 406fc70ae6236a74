"""Propagation against dense matrices, and its laws."""

import pytest
import reference_guided as slow
import torch
import torch.nn.functional as F
from conftest import bgr_image, normalised, random_clip
from guides import guide_folder

from itaclip import InputError, ITACLIPSegmentor, graphs
from itaclip import propagation as fast
from itaclip.predict.words import make_vocabulary
from itaclip.propagation import LPOSS, PEARL, LPOSSPlus, parse_propagation


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- LPOSS --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("nodes", "k"), [(53, 7), (31, 400)])
def test_lposs_solves_the_dense_system(nodes, k):
    y, f = random(nodes, 5), random(nodes, 4, seed=1)
    places = torch.rand(nodes, 2, generator=torch.Generator().manual_seed(2)) * 200
    expected = slow.lposs(y, f, places, k=k)
    found = fast.propagate_patches(y, f, places, LPOSS(neighbours=k, steps=100))
    torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=0)
    few = fast.propagate_patches(y, f, places, LPOSS(neighbours=k))
    assert (few.double() - expected).abs().max() < 0.05 * expected.abs().max()


def test_lposs_does_not_depend_on_blocks(monkeypatch):
    y, f, places = random(47, 3), random(47, 6, seed=1), random(47, 2) * 50
    whole = fast.propagate_patches(y, f, places, LPOSS(neighbours=9))
    monkeypatch.setattr(graphs, "_BLOCK_ELEMENTS", dict(cpu=47 * 5, cuda=1))
    monkeypatch.setattr(fast, "_VECTOR_ELEMENTS", 47)
    found = fast.propagate_patches(y, f, places, LPOSS(neighbours=9))
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def test_nodes_without_neighbours_stay_as_they_are():
    f = torch.eye(6)  # nobody is like anybody
    y = random(6, 4)
    torch.testing.assert_close(fast.propagate_patches(y, f, random(6, 2), LPOSS()), y)


def test_alike_patches_come_to_agree():
    f = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5)
    y = torch.zeros(10, 2)
    y[0, 0] = y[9, 1] = 1.0  # one hint each
    found = fast.propagate_patches(y, f, torch.zeros(10, 2), LPOSS())
    assert found.argmax(1).tolist() == [0] * 5 + [1] * 5


# ---- LPOSS+ -------------------------------------------------------------------------------------


def test_lposs_plus_equals_as_many_steps_of_the_dense_system():
    cv2 = pytest.importorskip("cv2")
    picture = F.interpolate(torch.rand(1, 3, 3, 4), (7, 11), mode="bicubic")[0].clamp(0, 1)
    lab = torch.from_numpy(cv2.cvtColor(picture.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2LAB))
    ours = graphs.rgb_to_lab(picture).permute(1, 2, 0)
    assert (lab - ours).abs().max() < 0.6  # OpenCV's tables; the formula has none
    logits = random(7, 11, 3)
    expected = slow.lposs_plus(logits, ours, m=3)
    found = fast.propagate_pixels(logits, picture, LPOSSPlus(side=7))
    assert found.shape == (7, 11, 3)
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=0)


def test_lab_of_known_colours():
    """White, black, and the primaries as tables have them (D65)."""
    colours = torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1]]).T[:, :, None]
    expected = torch.tensor([[100.0, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.2, -107.9]])
    found = graphs.rgb_to_lab(colours)[:, :, 0].T
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)


def test_strips_of_the_stencil_change_nothing(monkeypatch):
    picture, logits = torch.rand(3, 13, 19), random(13, 19, 4)
    whole = fast.propagate_pixels(logits, picture, LPOSSPlus(side=5))
    monkeypatch.setattr(graphs, "_BLOCK_ELEMENTS", dict(cpu=1, cuda=1))
    monkeypatch.setattr(fast, "_VECTOR_ELEMENTS", 13 * 19)
    torch.testing.assert_close(
        fast.propagate_pixels(logits, picture, LPOSSPlus(side=5)), whole, atol=1e-5, rtol=1e-5
    )


# ---- PEARL --------------------------------------------------------------------------------------


def test_pearl_solves_its_system():
    """Cell by cell, on a grid that is the picture itself."""
    h, w, q = 5, 7, 3
    logits, picture = random(h, w, q) * 0.3, torch.rand(3, h, w)
    text = F.normalize(random(q, 8, seed=3), dim=-1)
    s = (text @ text.T / 0.5).softmax(-1) + 10 * torch.eye(q)
    t = torch.diag(s / s.sum(-1, keepdim=True))
    p = logits.softmax(-1).flatten(0, 1)
    colours, n = picture.flatten(1).T, h * w
    pairs = [(i, i + 1) for i in range(n) if (i + 1) % w] + [(i, i + w) for i in range(n - w)]
    contrast = {(i, j): float((colours[i] - colours[j]).abs().mean()) for i, j in pairs}
    mean = sum(contrast.values()) / len(contrast)
    system, right = torch.zeros(n, n, dtype=torch.float64), torch.zeros(n, q, dtype=torch.float64)
    for i in range(n):
        data = max(float(p[i].max()), 0.05) ** 2 * (1 + float((p[i] * t * p[i]).sum()))
        system[i, i] += data
        right[i] = data * logits.flatten(0, 1)[i].double()
    for (i, j), value in contrast.items():
        agree = float((p[i] * t * p[j]).sum())
        edge = min(torch.exp(torch.tensor(-5 * value / mean)).item() * (1 + agree), 1.0)
        system[i, i] += edge
        system[j, j] += edge
        system[i, j] -= edge
        system[j, i] -= edge
    expected = torch.linalg.solve(system, right).reshape(h, w, q)
    found = fast.propagate_pearl(logits, picture, text, PEARL(steps=200))
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=0)
    few = fast.propagate_pearl(logits, picture, text, PEARL())
    assert (few.double() - expected).abs().max() < 0.02


def test_pearl_keeps_equal_similarities():
    logits = torch.full((90, 110, 4), 0.25)
    text = F.normalize(random(4, 8), dim=-1)
    found = fast.propagate_pearl(logits, torch.rand(3, 90, 110), text, PEARL())
    torch.testing.assert_close(found, logits, atol=1e-5, rtol=0)


# ---- through the segmentor ----------------------------------------------------------------------


def model(**settings):
    return ITACLIPSegmentor(
        clip_model=random_clip(text_layers=1, layers=3),
        vocabulary=make_vocabulary("cat; dog; tree", None),
        attention="maskclip_original",
        guide=guide_folder("vit16"),
        test_cfg=dict(mode="slide", crop_size=(48, 48), stride=(32, 32)),
        **settings,
    )


def test_lposs_joins_the_patches_of_all_windows():
    image = normalised(bgr_image(61, 85))
    plain = model()
    windows, maps = plain.similarity_maps(image)
    guide, last = plain.image_encoder.guide, []
    for top in windows.tops:
        for left in windows.lefts:
            own = image[:, top : top + 48, left : left + 48]
            stats = [t.flatten().tolist() for t in (guide.clip_mean, guide.clip_std)]
            last.append(slow.vit(guide.model, own, *stats)[3])
    places = [
        (top + 8 + 16 * r, left + 8 + 16 * c)
        for top in windows.tops
        for left in windows.lefts
        for r in range(3)
        for c in range(3)
    ]
    joined = torch.cat(maps)
    expected = slow.lposs(joined.flatten(0, 2), torch.cat(last), torch.tensor(places).float(), k=20)
    wanted = dict(method="lposs", neighbours=20, steps=60)
    found = torch.cat(plain.variant(propagation=wanted).similarity_maps(image)[1])
    torch.testing.assert_close(found.double(), expected.view_as(found.double()), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "method", ["lposs", dict(method="lposs_plus", side=3, steps=3), dict(method="pearl", side=20)]
)
def test_kept_features_batches_and_strips_give_the_same(method):
    image, size = normalised(bgr_image(61, 85)), (67, 91)
    own = model(propagation=method)
    logits = own.query_logits(image, size)
    torch.testing.assert_close(own.query_logits(own.extract_feat(image), size), logits)
    for batch in (1, 3):
        found = own.variant(window_batch=batch).query_logits(image, size)
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    labels, _ = own.segment(image, size)
    in_strips, scores = own.variant(return_scores=False).segment(image, size)
    assert scores is None and (labels == in_strips).float().mean() > 0.999
    assert own.query_logits(image).shape == (61, 85, 3)


def test_features_without_the_guides_are_refused():
    image = normalised(bgr_image(48, 64))
    kept = model().extract_feat(image)
    with pytest.raises(InputError, match="features: these were made without propagation"):
        model(propagation="lposs").query_logits(kept)


def test_the_key_is_checked():
    assert parse_propagation(None) is None
    assert parse_propagation("lposs") == LPOSS()
    assert parse_propagation(dict(method="lposs_plus", patches=False, side=9)).side == 9
    for value, text in (
        ("lpos", "expected None, 'lposs', 'lposs_plus', 'pearl'"),
        (dict(neighbours=3), "expected None, 'lposs'"),
        (dict(method="lposs", k=3), "propagation.k: no such key of 'lposs'; expected one of neigh"),
        (dict(method="lposs", neighbours=0), "propagation.neighbours: expected an integer from 1"),
        (dict(method="lposs", alpha=1.2), "propagation.alpha: expected a number from 0 to 1"),
        (dict(method="lposs", alpha=1), "a number below 1"),
        (dict(method="pearl", temperature=0), "propagation.temperature: expected a number above 0"),
        (dict(method="lposs_plus", patches=1), "propagation.patches: expected True or False"),
    ):
        with pytest.raises(InputError, match=text):
            parse_propagation(value)


def test_lposs_without_a_guide_says_what_it_needs():
    with pytest.raises(InputError, match="propagation: LPOSS joins patches by a second backbone"):
        ITACLIPSegmentor(
            clip_model=random_clip(text_layers=1, layers=3),
            vocabulary=make_vocabulary("cat", None),
            attention="clip",
            text_cache=False,
            propagation="lposs",
        )
