"""The rivals' references themselves: laws, and toy answers known by construction."""

import math

import pytest
import reference
import reference_rivals as rivals
import torch
from conftest import random_clip

SMALL = dict(iterations=2, dilations=(1, 2))  # PAMR on small windows


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def text(queries=5, width=32):
    return rivals.unit(random(queries, width, seed=9))


METHODS = {
    "clip_surgery": rivals.clip_surgery,
    "gem": rivals.gem,
    "resclip": rivals.resclip,
    "resclip, both passes": lambda clip, image: rivals.resclip(
        clip, image, text(), feedback_thd=0.2, **SMALL
    ),
    "scclip": rivals.scclip,
    "rfclip": lambda clip, image: rivals.rfclip(clip, image, channels=(3, 50)),
    "pearl": rivals.pearl,
}


@pytest.mark.parametrize("size", [(48, 80), (85, 53), (16, 16)])
@pytest.mark.parametrize("method", METHODS)
def test_features_are_a_grid_of_unit_vectors(method, size, tiny_clip):
    found = METHODS[method](tiny_clip, random(3, *size))
    assert found.shape == (size[0] // 16, size[1] // 16, 32)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(found.shape[:2]))


# ---- CLIP Surgery and GEM -----------------------------------------------------------------------


def test_surgery_of_the_last_block_alone_is_one_term_with_residual(tiny_clip):
    image = random(3, 48, 80)
    expected = reference.dense_features(tiny_clip, image, (["vv"], 1, 0, [], None))
    found = rivals.clip_surgery(tiny_clip, image, start=12)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (rivals.clip_surgery(tiny_clip, image) - expected).abs().max() > 0.05


@pytest.mark.parametrize("iterations", [0, 1])
def test_gem_clusters_orthonormal_tokens(iterations):
    """Equal cosines between all tokens stay equal: two weights describe every map."""
    n, temperature = 5, 2.0
    t, v = torch.eye(8)[None, :n], random(1, n, 8)
    cosine = 0.0
    for _ in range(iterations):
        own = math.exp(temperature) / (math.exp(temperature) + n - 1)
        other = (1 - own) / (n - 1)
        cosine = (2 * own * other + (n - 2) * other**2) / (own**2 + (n - 1) * other**2)
    own = 1 / (1 + (n - 1) * math.exp(temperature * (cosine - 1)))
    other = (1 - own) / (n - 1)
    expected = (own - other) * v + other * v.sum(dim=1, keepdim=True)
    found = rivals.gem_attention(3.0 * t, v, temperature, iterations)  # lengths do not matter
    torch.testing.assert_close(found, expected)


def test_gem_without_temperature_is_a_mean_and_with_much_of_it_the_values():
    t, v = random(2, 7, 8), random(2, 7, 8, seed=1)
    torch.testing.assert_close(
        rivals.gem_attention(t, v, 0.0, 1), v.mean(1, keepdim=True).expand_as(v)
    )
    torch.testing.assert_close(rivals.gem_attention(t, v, 1e4, 1), v)


def test_gem_of_infinite_temperature_is_maskclip_with_residual(tiny_clip):
    image = random(3, 48, 80)
    expected = reference.dense_features(tiny_clip, image, (["identity"], 1, 0, [], None))
    found = rivals.gem(tiny_clip, image, start=12, iterations=0, temperature=1e6)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_gem_takes_its_temperature_from_the_tokens_length(tiny_clip):
    image = random(3, 48, 80)
    outputs, _ = rivals.inputs_and_outputs(tiny_clip.visual, image)
    lengths = tiny_clip.visual.transformer.resblocks[-1].ln_1(outputs[-2]).norm(dim=-1)

    def found(temperature=None):
        options = dict(start=12, iterations=0, temperature=temperature)
        return rivals.gem(tiny_clip, image, **options)

    torch.testing.assert_close(found(), found(float(lengths.mean()) / 8))  # d = 64
    assert (found() - found(float(lengths.max()) / 8)).abs().max() > 1e-4


def test_gem_treats_queries_and_keys_alike():
    clip, image = random_clip(seed=6), random(3, 48, 80)
    before = rivals.gem(clip, image, start=12)
    attention = clip.visual.transformer.resblocks[-1].attn
    swap = [*range(128, 256), *range(128), *range(256, 384)]
    attention.in_proj_weight.copy_(attention.in_proj_weight[swap])
    attention.in_proj_bias.copy_(attention.in_proj_bias[swap])
    torch.testing.assert_close(rivals.gem(clip, image, start=12), before)


# ---- ResCLIP ------------------------------------------------------------------------------------


def test_resclip_lies_between_naclip_and_cross_attention(tiny_clip):
    image = random(3, 48, 80)

    def plain(terms, sigma=None):
        return reference.dense_features(tiny_clip, image, (terms, 0, 0, [], sigma))

    found = rivals.resclip(tiny_clip, image, rcs_weight=0.0, rcs_scale=1.0)
    torch.testing.assert_close(found, plain(["kk"], 5.0), atol=1e-5, rtol=0)
    found = rivals.resclip(tiny_clip, image, rcs_weight=1.0, rcs_scale=1.0, rcs_layers=(12,))
    torch.testing.assert_close(found, plain(["qk"]), atol=1e-5, rtol=0)


def test_resclip_without_feedback_repeats_its_first_pass(tiny_clip):
    image, once = random(3, 48, 80), dict(sfr_weight=0.0, sfr_scale=1.0)
    first = rivals.resclip(tiny_clip, image)
    torch.testing.assert_close(rivals.resclip(tiny_clip, image, text(), **once, **SMALL), first)
    assert (rivals.resclip(tiny_clip, image, text(), **SMALL) - first).abs().max() > 0.01


def test_feedback_alone_is_a_bias_of_the_logits(tiny_clip):
    """λ_s = 1: the keys do not matter; no pixel is sure: one label everywhere."""
    image, visual = random(3, 48, 80), tiny_clip.visual
    bias = reference.gaussian(3, 5, 5.0)
    bias[1:, 1:] += 2.2 * rivals.feedback_map(torch.zeros(3, 5, dtype=torch.long))
    outputs, _ = rivals.inputs_and_outputs(visual, image)
    last = visual.transformer.resblocks[-1]
    attention, v = reference.attention_map(last, outputs[11], ["window"], bias)
    expected = rivals.features(visual, rivals.merge(last, attention @ v)[1:], (3, 5))
    options = dict(rcs_weight=0.0, rcs_scale=1.0, sfr_weight=1.0, feedback_thd=1.1, **SMALL)
    found = rivals.resclip(tiny_clip, image, text(), **options)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_feedback_labels_by_hand():
    """Query 2 on the left of a 2×3 grid, query 1 on the right; half of the middle's pixels each."""
    logits = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0]]).expand(2, 3, 3)
    arguments = (torch.zeros(3, 8, 12), 4)

    def labels(scale, threshold):
        found = rivals.feedback_labels(logits, *arguments, scale, threshold, 0, (1,))
        assert torch.equal(found[0], found[1])
        return found[0].tolist()

    assert labels(40, 0.0) == [2, 1, 1], "of two common labels the smaller"
    assert labels(2, 0.6) == [2, 0, 1], "unsure pixels are 0"
    assert labels(2, 0.9) == [0, 0, 0]


def test_straight_lines_round_halves_to_even():
    assert rivals.straight_line((0, 0), (0, 3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert rivals.straight_line((0, 0), (2, 1)) == [(0, 0), (1, 0), (2, 1)]
    assert rivals.straight_line((0, 1), (2, 2)) == [(0, 1), (1, 2), (2, 2)]
    assert rivals.straight_line((3, 3), (3, 3)) == [(3, 3)] * 2


def test_same_label_mask_by_hand():
    """A column of ones between two columns of zeros: paths across it are broken."""
    labels = torch.tensor([[0, 1, 0], [0, 1, 0], [0, 1, 0]])
    broken = math.exp(-2 / 2)
    left, middle, right = (1.0, 0.0, broken), (0.0, 1.0, 0.0), (broken, 0.0, 1.0)
    expected = torch.tensor([(*left, *left, *left), (*middle,) * 3, (*right, *right, *right)])
    torch.testing.assert_close(rivals.same_label_mask(labels), expected.repeat(3, 1))


def test_feedback_map_of_one_label_is_the_blur_s_border():
    """All ones: a blurred row is 1 inside and less at the ends, and every row is the same."""
    found = rivals.feedback_map(torch.zeros(5, 9, dtype=torch.long))
    assert found.max() == 1
    torch.testing.assert_close(found[:1].expand_as(found), found)
    torch.testing.assert_close(found[:, 15:30], torch.ones(45, 15))
    kernel = torch.exp(-(torch.arange(-15.0, 16) ** 2) / 50)
    torch.testing.assert_close(found[0, 0], kernel[15:].sum() / kernel.sum())
    assert rivals.feedback_map(torch.zeros(1, 1, dtype=torch.long)).tolist() == [[1.0]]


# ---- SC-CLIP ------------------------------------------------------------------------------------


def test_outlier_factor_finds_a_planted_outlier():
    points = random(40, 6)
    points[17] += 9
    factors = rivals.local_outlier_factor(points, neighbours=10)
    assert int(factors.argmax()) == 17
    assert factors[17] > 3 * factors[torch.arange(40) != 17].max()


def test_outlier_factors_by_hand():
    """On the line at 0, 1, 3 with one neighbour: distances 1, 1, 4 to it, densities 1, 1, ¼."""
    points = torch.tensor([[0.0], [1.0], [3.0]])
    factors = rivals.local_outlier_factor(points, neighbours=1)
    torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 4.0]))
    with_all = rivals.local_outlier_factor(points, neighbours=30)  # two are there
    # k-distances 9, 4, 9; mean reach (4 + 9)/2, (9 + 9)/2, (4 + 9)/2.
    torch.testing.assert_close(
        with_all, torch.tensor([(13 / 18 + 1) / 2, 18 / 13, (13 / 18 + 1) / 2])
    )
    assert rivals.local_outlier_factor(points[:1], neighbours=30).tolist() == [1.0]


def test_repair_takes_unflagged_neighbours_only():
    patches = torch.arange(15.0)[:, None] ** 2  # 3×5
    flagged = torch.zeros(15, dtype=torch.bool)
    flagged[[0, 7, 8]] = True
    repaired = rivals.repair(patches, flagged, (3, 5))
    assert torch.equal(repaired[~flagged], patches[~flagged])
    for p, neighbours in {
        0: (1, 5, 6),
        7: (1, 2, 3, 6, 11, 12, 13),
        8: (2, 3, 4, 9, 12, 13, 14),
    }.items():
        assert repaired[p, 0] == pytest.approx(sum(n**2 for n in neighbours) / len(neighbours))
    everywhere = torch.ones(15, dtype=torch.bool)
    assert torch.equal(rivals.repair(patches, everywhere, (3, 5)), patches)


def test_aggregation_and_sharpened_map():
    similarity = torch.tensor([[1.0, 0.6, 0.1], [0.6, 1.0, 0.3], [0.1, 0.3, 1.0]])
    x = torch.tensor([[8.0], [0.0], [4.0]])
    expected = torch.tensor([[5.0], [3.0], [4.0]])
    torch.testing.assert_close(rivals.aggregate(similarity, x, 0.4), expected, atol=1e-4, rtol=0)
    # The mean is 5/9: 0.6 is above it, the smaller ones are out.
    share = 1 / (1 + math.exp(-3 * 0.4))
    expected = torch.tensor([[share, 1 - share, 0], [1 - share, share, 0], [0, 0, 1]])
    torch.testing.assert_close(rivals.sharpened(similarity, 3.0), expected)


def test_scclip_of_one_patch_is_two_plain_values(tiny_clip):
    """One patch: every map is 1 and nothing is mended or aggregated."""
    visual, image = tiny_clip.visual, random(3, 16, 16)
    outputs, _ = rivals.inputs_and_outputs(visual, image)
    last = visual.transformer.resblocks[-1]

    def value(x):
        return rivals.merge(last, rivals.projections(last, x[1:])[2]) + 0.3 * x[0]

    total = sum(outputs[4:11])
    expected = rivals.features(visual, value(outputs[11]) + value(total), (1, 1))
    torch.testing.assert_close(rivals.scclip(tiny_clip, image), expected, atol=1e-4, rtol=0)


def test_scclip_mends_only_above_the_quantile(tiny_clip):
    image = random(3, 48, 80)
    nothing = rivals.scclip(tiny_clip, image, quantile=1.0)
    assert (rivals.scclip(tiny_clip, image) - nothing).abs().max() > 1e-4


# ---- RF-CLIP ------------------------------------------------------------------------------------


def test_distracted_tokens_by_hand():
    """Ten channels: a share above 5 / 10 after the minimum is taken off, in channel 2 or 7."""
    tokens = torch.ones(5, 10)
    tokens[0, 7] = 2  # all of the mass
    tokens[1, 3] = 2  # the same elsewhere
    tokens[2, [2, 3]] = torch.tensor([9.0, 8.9])  # 8 / 15.9
    tokens[3, [2, 7]] = 9.0  # exactly half, twice
    tokens[4] = torch.arange(10.0) - 100
    found = rivals.distracted(tokens, (2, 7), 5.0)
    assert found.tolist() == [True, False, True, False, False]


def test_denoising_leaves_others_alone():
    patches = torch.ones(12, 10)  # 3×4
    patches[:, 0] = torch.arange(12.0)
    patches[0, 0] = 1.0
    patches[0, 2] = 9.0
    patches[6, [0, 2]] = torch.tensor([1.0, 19.0])
    out = rivals.denoise(patches, (3, 4), (2,), 5.0, 0.4)
    others = [i for i in range(12) if i not in (0, 6)]
    assert torch.equal(out[others], patches[others])
    assert out[0, 2] == pytest.approx(0.6 * 9 + 0.4 * (9 + 3) / 4)
    assert out[6, 0] == pytest.approx(0.6 * 1 + 0.4 * (1 + 2 + 3 + 5 + 1 + 7 + 9 + 10 + 11) / 9)


def test_rfclip_of_one_patch_is_two_plain_values(tiny_clip):
    visual, image = tiny_clip.visual, random(3, 16, 16)
    outputs, _ = rivals.inputs_and_outputs(visual, image)
    last = visual.transformer.resblocks[-1]
    guide = torch.stack(outputs[1:]).mean(0)
    value = [rivals.merge(last, rivals.projections(last, x[1:])[2]) for x in (outputs[11], guide)]
    expected = rivals.features(visual, sum(value) / 2, (1, 1))
    found = rivals.rfclip(tiny_clip, image, channels=(3, 50))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_rfclip_denoises_what_the_channels_flag(tiny_clip):
    image = random(3, 48, 80)
    quiet = rivals.rfclip(tiny_clip, image, channels=(3, 50), factor=128.0)
    loud = rivals.rfclip(tiny_clip, image, channels=(3, 50), factor=0.0)
    none = rivals.rfclip(tiny_clip, image, channels=(3, 50), factor=0.0, share=0.0)
    torch.testing.assert_close(quiet, none)
    assert (loud - quiet).abs().max() > 0.01


# ---- PEARL --------------------------------------------------------------------------------------


def rotations(heads, d, seed=3):
    return torch.linalg.qr(random(heads, d, d, seed=seed)).Q


def test_alignment_recovers_a_rotation():
    """Keys that are rotated and shifted queries: k R = q up to the shift."""
    q, turn = random(2, 23, 7), rotations(2, 7)
    k = q @ turn
    rotation, keys = rivals.alignment(q, k)
    torch.testing.assert_close(k @ rotation, q, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotation, turn.transpose(1, 2), atol=1e-5, rtol=0)
    shifted = rivals.alignment(q, k + random(2, 1, 7, seed=4))
    torch.testing.assert_close(shifted[0], rotation, atol=1e-5, rtol=0)
    torch.testing.assert_close(shifted[1], keys, atol=1e-5, rtol=0)


def test_means_leave_cls_out_and_weigh_with_the_queries_lengths():
    k, q = random(1, 4, 2), torch.zeros(1, 4, 2)
    q[0, :, 0] = torch.tensor([50.0, 3.0, 1.0, 0.0])
    _, keys = rivals.alignment(q, k)
    torch.testing.assert_close(k - keys, (0.75 * k[:, 1] + 0.25 * k[:, 2])[:, None].expand_as(k))


def test_polar_factor():
    turn = rotations(1, 5)[0]
    stretch = torch.diag(torch.tensor([9.0, 4.0, 2.0, 0.5, 0.1]))
    torch.testing.assert_close(rivals.polar_factor(turn @ stretch), turn, atol=1e-5, rtol=0)
    flat = torch.diag(torch.tensor([9.0, 4.0, 2.0, 0.0, 0.0]))
    expected = torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(rivals.polar_factor(flat), expected)


def test_pearl_turns_the_keys_back():
    """Keys that are the queries, rotated per head: S(s q (k R)ᵀ) = S(s q qᵀ)."""
    clip, image = random_clip(seed=5), random(3, 144, 128)  # 72 patches, more than d = 64
    attention = clip.visual.transformer.resblocks[-1].attn
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    turn = torch.block_diag(*rotations(2, 64))
    weight[128:256], bias[128:256] = turn @ weight[:128], turn @ bias[:128]
    found = rivals.pearl(clip, image, self_weight=0.0)
    expected = reference.dense_features(clip, image, (["qq"], 0, 0, [], None))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert (rivals.pearl(clip, image) - expected).abs().max() > 1e-3
