"""The surrounding state of torch changes nothing: the same call gives the same labels."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import bgr_image, normalised, random_clip
from mmseg.structures import SegDataSample

import itaclip
from itaclip import InputError, ITACLIPSegmentor, Vocabulary
from itaclip.clip_model import save_clip
from itaclip.predict.inspection import attention_at
from itaclip.runtime.recent import Recent

SIZE = (48, 64)
WORDS = Vocabulary.from_lists(["cat", ["dog", "puppy"], "sky"])
INPUT = normalised(bgr_image(*SIZE))
SETTINGS = dict(
    image_engineering_weight=0.7,
    pamr=dict(num_iter=2, dilations=(2, 4)),
    area_thd=0.05,
    label_closing=3,
    precision="bf16",
    text_cache=False,
)


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def nothing():
    yield


STATES = {
    "inference_mode": torch.inference_mode,
    "grad": torch.enable_grad,
    "autocast bf16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast fp16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device meta": lambda: torch.device("meta"),
}


def picture():
    return bgr_image(*SIZE).permute(1, 2, 0).numpy()[..., ::-1].copy()


def api(path):
    model = itaclip.load(path, recipe="resclip", short_side=None, stride=32, **SETTINGS)
    yield
    first = model.segment(picture(), "cat; dog, puppy; sky")
    yield first.labels, first.scores
    encoded = model.encode(picture())
    again = model.segment(encoded, "boat; sea")  # kept features, other words
    yield again.labels, again.scores


def mmseg(path):
    windows = dict(mode="slide", crop_size=64, stride=32)
    model = ITACLIPSegmentor(path, vocabulary=WORDS, test_cfg=windows, **SETTINGS).eval()
    yield
    data = dict(inputs=[bgr_image(*SIZE)], data_samples=[SegDataSample()])
    (sample,) = model.test_step(data)
    yield sample.pred_sem_seg.data, sample.seg_logits.data


def variants(path):
    windows = dict(mode="slide", crop_size=64, stride=32)
    model = ITACLIPSegmentor(path, vocabulary=WORDS, test_cfg=windows, **SETTINGS).eval()
    yield
    for changes in (dict(attention="scclip"), dict(vocabulary=Vocabulary.from_lists(["a", "b"]))):
        strips = model.variant(return_scores=False, **changes)
        yield strips.segment(INPUT, SIZE)


def text(path):
    model = ITACLIPSegmentor(path, vocabulary=WORDS, text_cache=False)
    model.text_encoder.remember = True
    yield
    templates = ["a {}.", "the {}"]
    for words in (["cat", "sky"], ["sky", "boat"]):
        yield (model.text_encoder.template_features(words, templates),)


def inspection(path):
    model = itaclip.load(path, short_side=None, precision="fp32", text_cache=False)
    yield
    for found in attention_at(model, picture(), (20, 30), ["clip", "itaclip", "pearl"]):
        yield (found.weights,)


DOORS = dict(api=api, mmseg=mmseg, variants=variants, text=text, inspection=inspection)


def collect(door, path, building=nothing, calling=nothing):
    steps, found = door(path), []
    with building():
        next(steps)
    with calling():
        for results in steps:
            found += results
    return [None if part is None else torch.as_tensor(part).clone() for part in found]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "small"
    return str(save_clip(random_clip(width=64, text_layers=1), folder))


@pytest.fixture(scope="module")
def expected(path):
    return {name: collect(door, path) for name, door in DOORS.items()}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("door", DOORS)
def test_the_same_call_gives_the_same_labels(door, state, path, expected):
    """Built in the state and used outside, or built outside and used in it: all is the same."""
    for building, calling in ((STATES[state], nothing), (nothing, STATES[state])):
        found = collect(DOORS[door], path, building, calling)
        for ours, wanted in zip(found, expected[door], strict=True):
            assert (ours is None) == (wanted is None)
            if ours is not None:
                assert ours.dtype == wanted.dtype
                assert torch.equal(ours, wanted)


def test_fp16_of_mmengines_test_loop_changes_nothing(path, expected):
    """``test_cfg = dict(fp16=True)`` is autocast around ``test_step``."""
    found = collect(mmseg, path, calling=lambda: torch.autocast("cpu", enabled=True))
    assert all(torch.equal(a, b) for a, b in zip(found, expected["mmseg"], strict=True))


def test_one_model_serves_threads(path, monkeypatch):
    """More words than are kept at once, from threads that evict one another's."""
    model = itaclip.load(path, short_side=None, stride=32, pamr=None, text_cache=False)
    monkeypatch.setattr("itaclip.predict.segmenter._MAX_VOCABULARIES", 2)
    model.segmentor.text_encoder._known.limit = 3
    encoded = model.encode(picture())
    lists = [f"cat; thing {i}; sky {i % 3}" for i in range(8)]
    alone = [model.segment(encoded, words).scores for words in lists]
    start = threading.Barrier(4)

    def work(number):
        start.wait()
        order = np.random.default_rng(number).permutation(len(lists))
        return [(i, model.segment(encoded, lists[i]).scores) for i in order]

    with ThreadPoolExecutor(4) as pool:
        results = [entry for found in pool.map(work, range(4)) for entry in found]
    # A word is encoded with others of its length, of whatever list, which may change its rounding.
    assert all(np.abs(scores - alone[i]).max() < 1e-5 for i, scores in results)


def test_what_was_unused_for_longest_goes():
    kept = Recent(2)
    kept.update([("a", 1), ("b", 2)])
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert kept.get("b") is None and kept.get("a") == 1 and len(kept) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_loaded_in_place_count(precision, path):
    """Image features, their lowered copy and text features are those of the new weights."""
    build = dict(vocabulary=WORDS, precision=precision, text_cache=False)
    image = INPUT
    other = random_clip(seed=5, width=64, text_layers=1)
    expected = ITACLIPSegmentor(copy.deepcopy(other), **build).segment(image, SIZE)[1]
    model = ITACLIPSegmentor(path, **build)
    variant = model.variant(attention="naclip")
    before = model.segment(image, SIZE)[1]
    model.load_state_dict(ITACLIPSegmentor(other, **build).state_dict())
    assert torch.equal(model.segment(image, SIZE)[1], expected)
    assert not torch.equal(before, expected)
    again = model.variant(attention="naclip").segment(image, SIZE)[1]
    assert torch.equal(variant.segment(image, SIZE)[1], again)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_weights_that_overflow_end_in_a_sentence(precision):
    clip = random_clip(width=64, text_layers=1)
    clip.visual.transformer.resblocks[3].mlp.c_proj.weight.mul_(
        1e38 if precision == "fp32" else 1e6
    )
    model = ITACLIPSegmentor(clip, vocabulary=WORDS, precision=precision, text_cache=False)
    named = "float32: .* other weights" if precision == "fp32" else "float16: .* precision='fp32'"
    with pytest.raises(InputError, match=f"the model: its image features overflow in {named}"):
        model.segment(INPUT, SIZE)
    clip = random_clip(width=64, text_layers=1)
    clip.transformer.resblocks[0].mlp.c_proj.weight.mul_(1e38)
    with pytest.raises(InputError, match="its text features overflow"):
        ITACLIPSegmentor(clip, vocabulary=WORDS, text_cache=False)


def test_apples_device_is_refused(path, capfd):
    with pytest.raises(InputError, match="'mps' is not supported"):
        itaclip.load(path, device="mps", text_cache=False)
    model = ITACLIPSegmentor(path, vocabulary=WORDS, text_cache=False).to("mps")
    assert model.text_features.device.type == "cpu"
