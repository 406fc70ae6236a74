"""Class pruning: which classes take part, and what that does to scores."""

import math

import pytest
import torch

from itaclip.errors import InputError
from itaclip.postprocess import class_scores
from itaclip.pruning import (
    MaxScore,
    Oracle,
    Presence,
    by_class,
    leave_out,
    parse_pruning,
    presence,
    score_maxima,
    with_background,
)

QUERY_CLASSES = (0, 0, 1, 2, 2, 3)


def test_a_class_left_out_scores_nothing_and_the_others_sum_to_one():
    logits = torch.rand(5, 7, 6)
    kept = torch.tensor([True, False, True, True])
    scores = class_scores(leave_out(logits.clone(), kept, QUERY_CLASSES), QUERY_CLASSES, 10)
    others = class_scores(logits[..., [0, 1, 3, 4, 5]].clone(), (0, 0, 1, 1, 2), 10)
    assert scores[..., 1].eq(0).all()
    assert torch.allclose(scores[..., [0, 2, 3]], others, atol=1e-6)


def test_max_score_is_the_largest_probability_of_a_pixel():
    logits = torch.randn(5, 7, 6)
    expected = class_scores(logits.clone(), QUERY_CLASSES, 3).amax((0, 1))
    assert torch.allclose(by_class(score_maxima(logits, 3), QUERY_CLASSES), expected)
    threshold = expected.sort()[0][1:3].mean().item()
    assert MaxScore(threshold).kept(expected).tolist() == (expected >= threshold).tolist()
    assert MaxScore(1.0).kept(expected).sum() == 1  # something must be there


def test_a_background_always_takes_part():
    assert with_background(torch.tensor([False, True]), True).tolist() == [True, True]
    assert with_background(torch.tensor([False, True]), False).tolist() == [False, True]


@pytest.mark.parametrize(("above", "kept"), [(0, 2), (3, 3), (9, 4)])
def test_presence_keeps_between_two_numbers_of_the_best(above, kept):
    scores = torch.cat([torch.zeros(1), torch.linspace(0.2, 0.1, 9)])
    scores[1 : 1 + above] += 0.5
    found = Presence(at_least=2, at_most=4).kept(scores, background=True)
    assert found.nonzero().flatten().tolist() == list(range(1, 1 + kept))


def test_presence_agrees_with_its_formula():
    g, s = [0.1, 0.3, 0.2], [0.25, 0.2, 0.3]
    g1, s1 = [0, 1, 0.5], [0.5, 0, 1]
    dot = sum(a * b for a, b in zip(g1, s1)) / math.sqrt(1.25) / math.sqrt(1.25)  # noqa: B905
    alpha = 1 / (1 + math.exp(0.5 - dot))
    e = [math.exp(10 * v) for v in g]
    p = [v / sum(e) for v in e]
    spread = -sum(v * math.log(v) for v in p) / math.log(3)
    expected = [alpha * a + (1 - alpha) * b + v * (1 - spread) for a, b, v in zip(g1, s1, p)]  # noqa: B905
    found = presence(torch.tensor(g, dtype=torch.double), torch.tensor(s, dtype=torch.double), 10)
    assert found.tolist() == pytest.approx(expected)


def test_the_oracle_knows_the_ground_truth_but_not_the_ignored_label():
    truth = torch.tensor([[1, 1, 255], [3, 3, 1]])
    assert Oracle().kept(truth, 4).tolist() == [False, True, False, True]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("oracle", "expected None or dict"),
        (dict(rule="best"), "with a rule out of 'max_score', 'presence', 'oracle'"),
        (dict(rule="oracle", threshold=1), "rule 'oracle' has no such key; expected none"),
        (dict(rule="max_score", threshold=2), "class_pruning.threshold"),
        (dict(rule="presence", at_least=0), "class_pruning.at_least"),
        (dict(rule="presence", at_least=7, at_most=6), "class_pruning.at_most"),
    ],
)
def test_a_wrong_key_is_named(value, words):
    with pytest.raises(InputError, match=words):
        parse_pruning(value)


def test_pruning_is_off_by_default_and_rules_have_the_published_numbers():
    assert parse_pruning(None) is None
    assert parse_pruning(dict(rule="max_score")) == MaxScore(0.5)
    assert parse_pruning(dict(rule="presence")) == Presence(6, 20, 0.3)
