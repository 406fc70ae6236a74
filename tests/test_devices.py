"""Labels on a device equal the CPU's; nothing mixes devices; windows cost no copy and no wait.

The device is pretended (see ``pretend.py``), and CUDA's as well where there is one.
"""

import copy
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch
from conftest import bgr_image, normalised, random_clip
from mmseg.structures import SegDataSample
from pretend import pretended

import itaclip
from itaclip import ITACLIPSegmentor, Vocabulary
from itaclip.app.workbench import Choices, Visit, Workbench
from itaclip.clip_model import save_clip
from itaclip.image_encoder import compute_dtype
from itaclip.recipes import list_recipes
from itaclip.runtime.batches import _fitting_batch

WORDS = Vocabulary.from_lists(["cat", ["dog", "puppy"], "sky"])
SMALL, LARGE = (32, 48), (48, 48)  # 2 and 4 windows
ALL_ON = dict(
    image_engineering_weight=0.7,
    pamr=dict(num_iter=2, dilations=(2, 4)),
    area_thd=0.05,
    label_closing=3,
    test_cfg=dict(mode="slide", crop_size=32, stride=16),
    window_batch=1,
)
RECIPES = [entry.name for entry in list_recipes(without="guide")]


@contextmanager
def real():
    yield None


@pytest.fixture(params=["gpu", "cuda"])
def device(request):
    """The device's name, and what it is used in."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA here")
    return request.param, pretended if request.param == "gpu" else real


@pytest.fixture(scope="module")
def clip():
    return random_clip(width=64, text_layers=1, resolution=32)


def build(clip, **changes):
    settings = dict(vocabulary=WORDS, text_cache=False) | ALL_ON | changes
    return ITACLIPSegmentor(copy.deepcopy(clip), **settings).eval()


@pytest.fixture(scope="module")
def models(clip):
    """One model on each device, whose variants share its weights."""

    @cache
    def made(name):
        model = build(clip).to(name)
        model.query_logits(image(SMALL).to(name))  # a device may give moved weights other names
        return model

    return made


def image(size):
    return normalised(bgr_image(*size))


def assert_alike(found, expected):
    labels, scores = (None if part is None else part.cpu() for part in found)
    assert torch.equal(labels, expected[0])
    if scores is not None:
        torch.testing.assert_close(scores, expected[1], atol=1e-4, rtol=0)


def attention_of(recipe):
    return dict(recipe=recipe, channels=(1, 5)) if recipe == "rfclip" else recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_and_no_window_waits(recipe, device, models):
    name, used = device
    views = 0.7 if recipe == "itaclip" else None  # five times the time
    changes = dict(attention=attention_of(recipe), image_engineering_weight=views)
    model = models("cpu").variant(**changes)
    expected = [model.segment(image(size), size) for size in (SMALL, LARGE)]
    counts = []
    with used() as counter:
        model = models(name).variant(**changes)
        for size, wanted in zip((SMALL, LARGE), expected, strict=True):
            own = image(size).to(name)
            if counter:
                counter.counts.clear()
                counter.log.clear()
            found = model.segment(own, size)
            counts += [dict(counter.counts)] if counter else []
            assert_alike(found, wanted)
    if counts:
        few, many = counts
        assert many["operations"] > few["operations"]
        for what in ("copy in", "wait"):
            assert many[what] == few[what] <= 4, counter.log


@pytest.mark.parametrize(
    "changes",
    [
        dict(return_scores=False, image_engineering_weight=0.7),
        dict(return_scores=False, pamr=None, logit_scale=5),
        dict(test_cfg=dict(mode="whole"), window_batch=None),
        dict(test_cfg=dict(mode="slide", crop_size=32, stride=16, merge="stitch")),
        dict(propagation=dict(method="pearl")),
        dict(class_pruning=dict(rule="max_score", threshold=0.3)),
        dict(regions=dict(source="slic", segments=6)),
    ],
    ids=lambda changes: "+".join(changes),
)
def test_every_step(changes, device, models):
    name, used = device
    changes = dict(image_engineering_weight=None) | changes
    expected = models("cpu").variant(**changes).segment(image(LARGE), LARGE)
    with used():
        found = models(name).variant(**changes).segment(image(LARGE).to(name), LARGE)
        assert_alike(found, expected)


def test_batches_of_mmseg(device, clip):
    name, used = device
    model = build(clip)
    sizes = (SMALL, LARGE, SMALL)

    def predict():
        samples = [SegDataSample(metainfo=dict(ori_shape=size)) for size in sizes]
        found = model.test_step(dict(inputs=[bgr_image(*s) for s in sizes], data_samples=samples))
        return [(s.pred_sem_seg.data[0].cpu(), s.seg_logits.data.cpu()) for s in found]

    expected = predict()
    with used():
        model.to(name)
        for ours, wanted in zip(predict(), expected, strict=True):
            assert_alike(ours, wanted)


def test_the_api_with_a_cache_that_is_cold_or_warm(device, clip, tmp_path, monkeypatch):
    """Features of the disk, of memory and fresh ones meet: all the same, on the device."""
    name, used = device
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path / "cache"))
    weights = str(save_clip(clip, tmp_path / "weights"))
    settings = dict(short_side=None, crop_size=32, stride=16, pamr=None, precision="fp32")
    picture = bgr_image(*LARGE).permute(1, 2, 0).numpy()[..., ::-1].copy()
    lists = ["cat; sky", "sky; dog; cat", "boat; sky"]

    def segment(where, **changes):
        model = itaclip.load(weights, device=where, **settings | changes)
        encoded = model.encode(picture)
        return [model.segment(encoded, words).scores for words in lists]

    expected = segment("cpu", text_cache=False)
    with used():
        for _ in ("cold", "warm"):
            for ours, wanted in zip(segment(name), expected, strict=True):
                assert np.abs(ours - wanted).max() < 1e-4


def test_the_workbench_of_the_page(device, clip, tmp_path):
    name, used = device
    weights = str(save_clip(clip, tmp_path / "weights"))
    settings = dict(short_side=None, crop_size=32, stride=16, precision="fp32", text_cache=False)
    picture = bgr_image(*LARGE).permute(1, 2, 0).numpy()[..., ::-1].copy()

    def work(where):
        bench = Workbench(itaclip.load(weights, device=where, **settings))
        chosen = Choices("naclip", "8", False, True, 40.0, 0.2)
        visit = bench.segment(Visit("p", picture), "cat; dog", "sky, sea", chosen)
        return visit.result.labels, bench.attention(visit, (20, 30))

    expected = work("cpu")
    with used():
        labels, heat = work(name)
    assert np.array_equal(labels, expected[0])
    assert np.abs(heat.astype(int) - expected[1]).max() <= 3  # a step of the colour map


def test_mixing_devices_and_waiting_is_noticed():
    """The pretended device fails where a real one would, and counts."""
    with pretended() as counter:
        there = torch.arange(3.0).to("gpu")
        with pytest.raises(AssertionError, match="mixes devices"):
            there + torch.ones(3)
        assert (there + 1).sum().item() == 6
        assert counter.counts["copy in"] == 1 and counter.counts["wait"] == 1
        there[1:].add_(1)
        assert there.cpu().tolist() == [0, 2, 3], "views share their values"
        assert torch.zeros(2, device="gpu").device.type == "gpu"


def test_precision_and_batches_know_the_card_alone(monkeypatch):
    """bf16 where the card has it, not where it is emulated; batches by memory it has, not free."""
    cuda = torch.device("cuda", 0)
    asked = []

    def supported(including_emulation=True):
        asked.append(including_emulation)
        return including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert compute_dtype("auto", cuda) == torch.float16 and asked == [False]

    class Card:
        total_memory = 16 << 30

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("what is free"))
    assert _fitting_batch(cuda, bytes_each=64 << 20, passes_each=5) == 64
    assert _fitting_batch(cuda, bytes_each=1 << 20, passes_each=5) == 1024 // 5
