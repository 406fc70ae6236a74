"""Laws of names in pictures: two different names never look alike, and every letter is drawn."""

import itertools
import logging

import numpy as np
import pytest

from itaclip.predict.segmentation import Segmentation
from itaclip.runtime.lettering import figure_lettering, lettering
from itaclip.runtime.pictures import overlay_with_legend

NAMES = (
    "sky", "небо", "天", "海", "天空", "مرحبا", "שמיים", "ουρανός", "\U0001f431", "\U0001f436",
    "\ue000", "\ue001", "cat\u200b", "cat", "c\u00e2t",
    "\u0e17\u0e49\u0e2d\u0e07", "\u0e1f\u0e49\u0e32",
)  # fmt: skip


def legend(name):
    image, labels = np.zeros((8, 260, 3), np.uint8), np.zeros((8, 260), int)
    return overlay_with_legend(image, labels, [name], [(255, 0, 0)])


def test_two_names_never_look_alike():
    drawn = [legend(name) for name in NAMES]
    for (one, first), (other, second) in itertools.combinations(zip(NAMES, drawn, strict=True), 2):
        same = first.shape == second.shape and (first == second).all()
        assert not same, f"{one!r} and {other!r} are drawn alike"


def test_letters_that_no_font_has_are_spelled_and_said(caplog):
    with caplog.at_level(logging.WARNING):
        assert lettering("a\ue123b", 13)[1] == "aU+E123 b"
        assert lettering("x\u2fffe\U0010fff0", 13)[1].startswith("x")
    assert lettering("sky", 13)[1] == "sky"
    assert lettering("небо", 13)[1] == "небо"
    assert figure_lettering(["sky", "a\ue123b"])[0] == ["sky", "aU+E123 b"]


@pytest.mark.filterwarnings("error:Glyph")
def test_figures_have_no_boxes_either():
    from matplotlib import pyplot

    labels = np.arange(3, dtype=np.int32)[None].repeat(3, 0)
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    result = Segmentation(np.zeros((3, 3, 3), np.uint8), labels, None, NAMES[2:5], palette)
    ax = result.plot()
    ax.figure.canvas.draw()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(set(texts)) == 3
    pyplot.close("all")
