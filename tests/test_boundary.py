"""Boundary IoU against its definition, and in an evaluation."""

import math

import numpy as np
import pytest
import torch

from itaclip.errors import InputError
from itaclip.evaluation.boundary import BoundaryIoUMetric, boundary_areas
from itaclip.evaluation.journal import decode, encode

H, W, C = 23, 31, 4


def band_slowly(mask, distance):
    """Pixels of one mask (H, W) within ``distance`` of a pixel outside it, pixel by pixel."""
    height, width = mask.shape
    band = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            near = [
                not (0 <= v < height and 0 <= u < width and mask[v, u])
                for v in range(y - distance, y + distance + 1)
                for u in range(x - distance, x + distance + 1)
            ]
            band[y, x] = mask[y, x] and any(near)
    return band


@pytest.mark.parametrize(("dilation", "ignore"), [(0.02, 255), (0.06, 255), (0.02, 0)])
def test_areas_agree_with_the_definition(dilation, ignore):
    rng = np.random.default_rng(1)
    truth, prediction = (np.kron(rng.integers(0, C, (4, 4)), np.ones((8, 8), int)) for _ in "ab")
    truth, prediction = truth[:H, :W].copy(), prediction[1 : H + 1, :W].copy()
    truth[5:9, 10:20] = ignore
    distance = max(1, round(dilation * math.hypot(H, W)))
    ignored = truth == ignore
    expected = []
    for c in range(C):
        p = band_slowly((prediction == c) & ~ignored, distance)
        g = band_slowly((truth == c) & ~ignored, distance)
        expected.append([(p & g).sum(), (p | g).sum(), p.sum(), g.sum()])
    found = boundary_areas(torch.tensor(prediction), torch.tensor(truth), C, dilation, ignore)
    assert torch.stack(found, dim=1).long().tolist() == np.array(expected).tolist()


def sample(prediction, truth):
    return {
        "pred_sem_seg": {"data": torch.as_tensor(prediction)[None]},
        "gt_sem_seg": {"data": torch.as_tensor(truth)[None]},
    }


def metric(**keys):
    made = BoundaryIoUMetric(**keys)
    made.dataset_meta = {"classes": ("sky", "sea", "boat")}
    return made


def test_a_perfect_prediction_scores_100_also_next_to_ignored_pixels():
    truth = np.zeros((30, 30), np.int64)
    truth[10:, :] = 1
    prediction = truth.copy()
    truth[8:12] = 255
    made = metric()
    made.process(None, [sample(prediction, truth)])
    assert made.compute_metrics(made.results) == {"mBoundaryIoU": 100.0}


def test_a_shifted_outline_costs_more_than_in_miou_and_absent_classes_nothing():
    truth = np.zeros((50, 50), np.int64)
    truth[25:, :] = 1
    made = metric(dilation=0.04)
    made.process(None, [sample(np.roll(truth, 1, axis=0) * (np.arange(50) > 0)[:, None], truth)])
    score = made.compute_metrics(made.results)["mBoundaryIoU"]
    assert 50 < score < 90  # mIoU: 96


def test_results_survive_the_journal_and_are_not_taken_for_miou():
    made = metric()
    made.process(None, [sample(np.eye(9, dtype=int), np.zeros((9, 9), int))])
    kept = decode(encode(made.results))
    assert not isinstance(kept[0], tuple)
    for a, b in zip(kept[0]["boundary"], made.results[0]["boundary"], strict=True):
        assert torch.equal(a, b) and a.dtype == torch.float32


@pytest.mark.parametrize("keys", [dict(dilation=2), dict(dilation="a"), dict(ignore_index=None)])
def test_a_wrong_key_is_named(keys):
    with pytest.raises(InputError, match=f"BoundaryIoUMetric.{next(iter(keys))}"):
        BoundaryIoUMetric(**keys)
