"""Settings, checks, variants, the palette: one truth each."""

import math

import numpy as np
import pytest
import torch
from conftest import bgr_image, normalised

from itaclip import InputError, ITACLIPSegmentor, Vocabulary, checks
from itaclip.runtime.palette import palette_of
from itaclip.settings import Settings
from itaclip.sliding_window import Windows

WORDS = Vocabulary.from_lists(["grass", "cat", ["sky", "clouds"]])


@pytest.fixture(scope="module")
def model(tiny_clip_path):
    windows = dict(mode="slide", crop_size=64, stride=32)
    return ITACLIPSegmentor(
        tiny_clip_path, vocabulary=WORDS, test_cfg=windows, text_cache=False
    ).eval()


def test_settings_have_one_form_and_stay():
    first = Settings(test_cfg=dict(mode="slide", crop_size=64, stride=[32, 16]), pamr={})
    second = Settings(test_cfg=Windows((64, 64), (32, 16)), pamr=dict(dilations=[8, 16]))
    assert first == second and hash(first) == hash(second)
    assert first.changed(dict(pamr=None)).pamr is None and first.pamr is not None
    with pytest.raises(AttributeError):
        first.prob_thd = 0.5
    with pytest.raises(InputError, match=r"strid: .*label_closing"):
        first.changed(dict(strid=3))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint8])
def test_numpy_scalars_are_numbers(kind):
    settings = Settings(
        image_engineering_weight=kind(1),
        aux_text_weight=kind(0),
        logit_scale=kind(40),
        prob_thd=kind(0),
        area_thd=kind(0),
    )
    plain = Settings(
        image_engineering_weight=1, aux_text_weight=0, logit_scale=40, prob_thd=0, area_thd=0
    )
    assert settings == plain and type(settings.logit_scale) in (int, float)
    if np.issubdtype(kind, np.integer):
        sizes = Settings(
            test_cfg=dict(mode="slide", crop_size=kind(64), stride=(kind(28), kind(14))),
            pamr=dict(num_iter=kind(3), dilations=(kind(2),)),
            window_batch=kind(5),
            label_closing=kind(3),
        )
        assert sizes.windows == Windows((64, 64), (28, 14)) and sizes.pamr == (3, (2,))
        assert {type(sizes.window_batch), type(sizes.pamr.num_iter)} == {int}
    else:
        with pytest.raises(InputError, match="window_batch"):
            Settings(window_batch=kind(5))


@pytest.mark.parametrize("value", [True, np.True_, "3", None, [3], math.nan, math.inf, 1j])
def test_what_is_no_number_is_refused(value):
    for check in (checks.number, checks.integer):
        with pytest.raises(InputError, match=r"key: expected .* from 0, but got"):
            check(value, "key")
    assert not checks.is_number(value) and not checks.is_integer(value)


def test_flags_are_flags():
    assert checks.flag(np.True_, "key") is True
    for value in (1, "yes", None):
        with pytest.raises(InputError, match="key: expected True or False"):
            checks.flag(value, "key")


@pytest.mark.parametrize(
    "changes",
    [
        dict(attention="naclip"),
        dict(vocabulary=Vocabulary.from_lists(["boat", "sea"])),
        dict(pamr=dict(num_iter=2, dilations=(2,))),
        dict(test_cfg=dict(mode="whole")),
        dict(logit_scale=5, label_closing=3, image_engineering_weight=0.7),
    ],
)
def test_a_variant_is_what_is_built_that_way_and_leaves_its_model_alone(
    changes, model, tiny_clip_path
):
    image = normalised(bgr_image(70, 90))
    before = model.segment(image, (70, 90))[1]
    own = dict(test_cfg=dict(mode="slide", crop_size=64, stride=32), vocabulary=WORDS)
    built = ITACLIPSegmentor(tiny_clip_path, text_cache=False, **own | changes).eval()
    variant = model.variant(**changes)
    assert torch.equal(variant.segment(image, (70, 90))[1], built.segment(image, (70, 90))[1])
    assert torch.equal(model.segment(image, (70, 90))[1], before)
    own, shared = (m.image_encoder.visual.conv1.weight for m in (model, variant))
    assert own is shared


def test_nobody_writes_settings_into_a_model(model):
    with pytest.raises(AttributeError):
        model.settings = Settings()


def test_mmsegs_helpers_cannot_rename_the_classes(model):
    model.dataset_meta = dict(classes=("road", "sidewalk"), palette=[[1, 2, 3]] * 2)
    assert model.dataset_meta["classes"] == ("grass", "cat", "sky")
    assert model.dataset_meta["palette"] == [list(c) for c in palette_of(["grass", "cat", "sky"])]


def test_colours_that_people_expect_and_distinct_ones():
    first = palette_of(["everything", "grass", "cat", "sky-other", "Sky", "dog"], background=True)
    second = palette_of(["dog", "sky", "grass"])
    assert first[0] == (0, 0, 0)
    red, green, blue = first[1]
    assert green > red and green > blue and first[1] == second[2]
    red, green, blue = first[3]
    assert blue > green > red and first[3] == second[1], "the first of two takes it"
    for names in ([f"thing {i}" for i in range(40)], ["grass", "sky", "sea", "sand"] * 10):
        colours = np.array(palette_of(names), int)
        apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(40, dtype=int)
        assert apart.min() > 25
    assert len(set(palette_of([str(i) for i in range(3000)], background=True))) == 3000
