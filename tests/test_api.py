"""load(), Segmenter and Segmentation, as their users call them."""

import json
import threading

import matplotlib
import numpy as np
import pytest
import torch
from conftest import PROJECT, bgr_image
from mmseg.apis import inference_model, init_model
from PIL import Image

import itaclip
from itaclip import InputError, Segmentation
from itaclip.background_words import LISTS
from itaclip.predict.words import make_vocabulary
from itaclip.sliding_window import Windows

matplotlib.use("Agg")
WORDS = [["sky"], ["sea", "ocean"], ["cat"], ["boat", "sailboat"]]
SCENE = PROJECT / "docs" / "scene.png"


def picture(height=83, width=101, seed=0):
    return bgr_image(height, width, seed).permute(1, 2, 0).numpy()


@pytest.fixture(scope="module")
def model(tiny_clip_path):
    return itaclip.load(tiny_clip_path, precision="fp32", short_side=64, pamr=None, device="cpu")


@pytest.fixture(scope="module")
def storybook():
    return itaclip.load("storybook-tiny", device="cpu")


def message(function, *args, **kwargs):
    with pytest.raises(InputError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- the whole ----------------------------------------------------------------------------------


def test_the_shipped_model_finds_what_is_drawn(storybook):
    """Defaults alone: pixels of the shipped scene that anybody would call by these names."""
    result = storybook.segment(SCENE, "sky; sea, ocean; wooden floor, floorboards; tree; boat")
    assert result.labels.shape == (150, 230)
    found = {name: result.mask(name) for name in result.classes}
    assert found["sky"][:40].mean() > 0.95
    assert found["wooden floor"][65:90, 2:40].mean() > 0.95
    assert found["sea"][130:, 150:].mean() > 0.95
    assert found["tree"][85:105, 70:85].mean() > 0.9


@pytest.mark.parametrize("recipe", ["itaclip", "resclip"])
def test_a_config_gives_what_mmseg_gives(recipe, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        f"_base_ = [{str(PROJECT / 'configs/cfg_storybook.py')!r}]\n"
        f"model = dict(attention={recipe!r}, prob_thd=0.2, area_thd=0.02)\n"
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(300, 130), "
        "keep_ratio=True), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))"
    )
    expected = inference_model(init_model(str(path), device="cpu"), str(SCENE))
    result = itaclip.load(config=path, device="cpu").segment(SCENE)
    assert np.array_equal(result.labels, expected.pred_sem_seg.data[0].numpy())
    assert np.array_equal(result.scores, expected.seg_logits.data.permute(1, 2, 0).numpy())
    assert result.classes[:2] == ("sky", "sea")


def test_settings_overrule_a_config():
    given = dict(precision="fp32", stride=28, short_side=120, label_closing=0)
    model = itaclip.load(config=PROJECT / "configs/cfg_storybook.py", recipe="naclip", **given)
    assert model.segmentor.settings.windows == Windows((112, 112), (28, 28))
    assert model.short_side == 120
    assert model.segmentor.settings.label_closing == 0
    assert model.recipe.gaussian_std == 5
    assert "float32" in model.describe()


def test_defaults_follow_the_model(model, storybook):
    assert model.segmentor.settings.windows == Windows((64, 64), (16, 16))
    assert storybook.segmentor.settings.windows == Windows((112, 112), (56, 56))
    assert (storybook.short_side, len(storybook.segmentor.settings.views)) == (None, 1)
    assert len(model.segmentor.settings.views) == 5


def test_a_tower_of_another_depth_takes_the_recipe_s_relative_blocks(tmp_path, caplog):
    from conftest import random_clip

    from itaclip.clip_model import save_clip

    folder = save_clip(random_clip(layers=6), tmp_path / "six")
    with caplog.at_level("INFO"):
        model = itaclip.load(folder, crop_size=None)
    assert model.recipe.middle_layers == (4, 5)
    assert "scaled to a tower of 6 blocks" in caplog.text
    assert model.segmentor.settings.windows.whole


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(recipe="naclap"), "unknown recipe 'naclap'"),
        (dict(device="gpu7x"), "device: expected"),
        (dict(device="cuda:93"), "device: cuda:93 cannot be used"),
        (dict(short_side=0), "short_side: expected"),
        (dict(stride=500), "test_cfg.stride"),
        (dict(clip_model="VIT-B/16"), "'VIT-B/16' is neither"),
        (dict(config="configs/none.py"), "config: expected an existing file"),
        (dict(config=PROJECT / "eval.py"), "model.type"),
        (dict(prob_thd=2), "prob_thd: expected"),
    ],
)
def test_bad_settings_are_one_sentence(settings, words, tiny_clip_path):
    settings = settings if "config" in settings else {"clip_model": tiny_clip_path} | settings
    assert words in message(itaclip.load, **settings)


def test_a_pipeline_that_cannot_be_followed(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "model = dict(type='ITACLIPSegmentor', clip_model='storybook-tiny', "
        "name_path='configs/cls_storybook.txt')\n"
        "test_pipeline = [dict(type='LoadImageFromFile'), dict(type='Pad', size=(9, 9))]"
    )
    assert "but it has Pad" in message(itaclip.load, config=path)
    assert itaclip.load(config=path, short_side=112).short_side == 112


# ---- words --------------------------------------------------------------------------------------


def test_words_as_a_list_and_as_a_line(model):
    as_list = model.segment(picture(), WORDS)
    for words in ("sky; sea, ocean; cat; boat, sailboat;", "sky\nsea , ocean;cat;boat,sailboat"):
        result = model.segment(picture(), words)
        assert np.array_equal(result.scores, as_list.scores)
        assert result.classes == ("sky", "sea", "cat", "boat")


def test_what_comes_out(model):
    result = model.segment(picture(), WORDS)
    assert result.scores.shape == (83, 101, 4) and result.scores.dtype == np.float32
    assert result.labels.shape == (83, 101) and result.labels.dtype == np.int32
    assert np.array_equal(result.labels, result.scores.argmax(-1))
    assert len(np.unique(result.labels)) > 1, "the case is trivial"
    assert 0 <= result.scores.min() <= result.scores.max() <= 1
    assert np.array_equal(result.image, picture())


def test_a_background_is_class_0_and_owns_words(model):
    result = model.segment(picture(), "cat; boat", background="sky, sea")
    assert result.classes == ("background", "cat", "boat")
    apart = model.segment(picture(), "sky; sea; cat; boat")
    assert np.allclose(result.scores[..., 0], apart.scores[..., :2].max(-1), atol=1e-6)
    assert np.allclose(result.scores[..., 1:], apart.scores[..., 2:], atol=1e-6)
    assert result.palette[0] == (0, 0, 0)
    assert np.array_equal(
        result.labels, model.segment(picture(), "cat; boat", background=["sky", "sea"]).labels
    )


def test_common_surroundings_leave_the_classes_out():
    vocabulary = make_vocabulary("Tree, oak; cat", True)
    assert vocabulary.background
    assert "tree" not in vocabulary.class_names[0]
    assert {*vocabulary.class_names[0], "tree"} == {*LISTS["surroundings"]}
    assert make_vocabulary("tree", False).class_names == (("tree",),)


def test_thresholds(model):
    nothing = model.segment(picture(), "cat; boat", background="sky", prob_thd=1.0)
    assert set(nothing.areas()) == {"background"}
    plain = model.segment(picture(), "cat; boat; sea", background="sky")
    low = float(np.median(plain.scores.max(-1)))
    unsure = model.segment(picture(), "cat; boat; sea", background="sky", prob_thd=low)
    best = plain.scores.max(-1)
    assert np.array_equal(unsure.labels == 0, (best < low) | (plain.labels == 0))
    without = model.segment(picture(), "cat; boat; sea", background="sky", area_thd=1.0)
    assert set(without.areas()) == {"background"}
    assert "there is none" in message(model.segment, picture(), "cat; boat", prob_thd=0.5)
    again = model.segment(picture(), "cat; boat; sea", background="sky")
    assert np.array_equal(again.labels, plain.labels), "one call's thresholds stay"


def test_a_loaded_threshold_needs_a_background(tiny_clip_path):
    """It turns unsure pixels into background, so words without one leave it out."""
    model = itaclip.load(tiny_clip_path, prob_thd=1.0, short_side=64, pamr=None)
    result = model.segment(picture(), WORDS)
    assert np.array_equal(result.labels, result.scores.argmax(-1))
    assert set(model.segment(picture(), WORDS, background="wall").areas()) == {"background"}


def test_texts_about_the_classes(model):
    texts = {"cat": "a small furry animal", "boat": "a vessel on water"}
    plain = model.segment(picture(), "cat; boat").scores
    blended = model.segment(picture(), "cat; boat", auxiliary_texts=texts).scores
    assert np.abs(plain - blended).max() > 1e-3
    off = model.segment(picture(), "cat; boat", auxiliary_texts=texts, aux_text_weight=0)
    assert np.allclose(off.scores, plain, atol=1e-6)
    assert "has no text" in _first_line(model, auxiliary_texts={"cat": "furry"})


def _first_line(model, **options):
    with pytest.raises(InputError) as error:
        model.segment(picture(), "cat; boat", **options)
    return str(error.value)


@pytest.mark.parametrize(
    ("classes", "options", "words"),
    [
        (None, {}, "classes: expected words"),
        (None, dict(background="sky"), "classes: expected the classes along"),
        ([], {}, "at least one class"),
        ("  ;\n", {}, "at least one class"),
        ("cat, sofa, dog", {}, "separate classes by ';', such as 'cat; sofa; dog'"),
        ([["cat"], 3], {}, "classes[1]"),
        (7, {}, "expected a list of names"),
        ("cat; Cat", {}, "also belongs to class"),
        ("cat; dog,,puppy", {}, "is empty"),
        ("cat; background", dict(background="sky"), "already the class"),
        ("cat", dict(background=3), "background: expected None, True"),
        ("cat", dict(background=" , "), "at least one word"),
        ("cat; dog", dict(aux_text_weight=3), "aux_text_weight: expected"),
        ("cat; dog", dict(area_thd=-1), "area_thd: expected"),
    ],
)
def test_bad_words_are_one_sentence(classes, options, words, model):
    assert words in message(model.segment, picture(), classes, **options)


def test_a_segmentor_without_classes_says_so(model):
    with pytest.raises(InputError, match="no classes yet"):
        model.segmentor.segment(torch.zeros(3, 64, 64), (64, 64))


def test_words_met_before_are_not_encoded_again(tiny_clip_path, monkeypatch):
    model = itaclip.load(tiny_clip_path, text_cache=False, pamr=None, short_side=64)
    first = model.segment(picture(), "cat; boat; sea")
    monkeypatch.setattr(
        model.segmentor.text_encoder, "encode", lambda prompts: pytest.fail(prompts[0])
    )
    again = model.segment(picture(), "cat; boat; sea")
    assert np.array_equal(first.scores, again.scores)
    other = model.segment(picture(), "sea; cat")
    assert other.classes == ("sea", "cat")
    with pytest.raises(pytest.fail.Exception, match="lamp"):
        model.segment(picture(), "cat; lamp")


# ---- features that are kept ---------------------------------------------------------------------


def test_kept_features_answer_for_any_words(model, monkeypatch):
    expected = {
        words: model.segment(picture(), words).scores for words in ("cat; sea", "boat; sky")
    }
    encoded = model.encode(picture())
    monkeypatch.setattr(model.segmentor.image_encoder, "forward", lambda *a: pytest.fail("encoded"))
    for words, scores in expected.items():
        assert np.array_equal(model.segment(encoded, words).scores, scores)


def test_features_of_words_are_made_anew(model):
    """ResCLIP's features depend on the words, so none are kept."""
    own = model.with_recipe("resclip")
    encoded = own.encode(picture())
    assert encoded.features is None
    for words in ("cat; sea", "boat; sky; lamp"):
        fresh = own.segment(picture(), words).scores
        assert np.array_equal(own.segment(encoded, words).scores, fresh)


def test_another_recipe_shares_the_weights_and_leaves_the_first(model):
    before = model.segment(picture(), WORDS).scores
    other = model.with_recipe("naclip")
    own, shared = (m.segmentor.image_encoder.visual.conv1.weight for m in (model, other))
    assert own.data_ptr() == shared.data_ptr()
    changed = other.segment(picture(), WORDS).scores
    assert np.abs(changed - before).max() > 1e-3
    assert np.array_equal(model.segment(picture(), WORDS).scores, before)
    encoded = model.encode(picture())
    assert np.array_equal(other.segment(encoded, WORDS).scores, changed)
    assert np.array_equal(model.segment(other.encode(encoded), WORDS).scores, before)


def test_lowered_weights_are_shared_too():
    model = itaclip.load("storybook-tiny", precision="bf16")
    other = model.with_recipe("sclip")
    first, second = (m.segmentor.image_encoder._blocks()[0] for m in (model, other))
    assert first.attn.in_proj_weight.dtype == torch.bfloat16
    assert first.attn.in_proj_weight.data_ptr() == second.attn.in_proj_weight.data_ptr()


def test_threads_may_share_a_model(model):
    questions = ["cat; boat", "sea; sky; lamp", "car; tree; dog; fish"]
    expected = [model.segment(picture(), words).labels for words in questions]
    found = {}

    def ask(number):
        words = questions[number % 3]
        found[number] = model.segment(picture(), words, prob_thd=0).labels

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[n], expected[n % 3]) for n in range(9))


# ---- sizes --------------------------------------------------------------------------------------


def test_labels_alone_are_the_same(model):
    with_scores = model.segment(picture(), WORDS)
    result = model.segment(picture(), WORDS, scores=False)
    assert result.scores is None
    assert np.array_equal(result.labels, with_scores.labels)


def test_large_pictures_are_labelled_at_a_bounded_size(tiny_clip_path):
    settings = dict(precision="fp32", short_side=64, pamr=dict(num_iter=2, dilations=(1,)))
    full = itaclip.load(tiny_clip_path, max_result_side=None, **settings)
    bounded = itaclip.load(tiny_clip_path, max_result_side=80, **settings)
    small, large = picture(60, 80), picture(163, 211)
    assert np.array_equal(full.segment(small, WORDS).scores, bounded.segment(small, WORDS).scores)
    result, expected = bounded.segment(large, WORDS), full.segment(large, WORDS)
    assert result.labels.shape == (163, 211) and result.scores.shape == (163, 211, 4)
    assert (result.labels == result.scores.argmax(-1)).mean() > 0.97
    assert (result.labels == expected.labels).mean() > 0.9


def test_one_pixel_and_a_thread(model, storybook):
    assert model.segment(np.zeros((1, 1, 3), np.uint8), WORDS).labels.shape == (1, 1)
    thread = np.zeros((1, 4000), np.uint8)
    text = message(model.segment, thread, WORDS)
    assert text.startswith("image: its 1x4000 pixels") and "16 at least on each side" in text
    assert "8 at least" in message(storybook.segment, np.zeros((5, 5), np.uint8), WORDS)


# ---- many pictures ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("b.png", "a.png", "d.jpg")):
        Image.fromarray(picture(50 + number, 61, number)).save(tmp_path / name)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    return tmp_path


def test_a_bad_picture_does_not_lose_the_rest(model, folder):
    bad = []
    results = model.segment_folder(
        folder, "cat; boat", on_error=lambda source, error: bad.append((source, str(error)))
    )
    results = list(results)
    assert [r.source for r in results] == [str(folder / n) for n in ("a.png", "b.png", "d.jpg")]
    assert [r.labels.shape for r in results] == [(51, 61), (50, 61), (52, 61)]
    ((source, error),) = bad
    assert source == str(folder / "c.png") and "damaged" in error


def test_without_a_handler_it_is_raised(model, folder):
    results = model.segment_batch(sorted(folder.iterdir()), "cat; boat")
    assert next(results).source.endswith("a.png")
    assert next(results).source.endswith("b.png")
    assert "c.png" in message(next, results)


def test_bad_words_are_raised_even_with_a_handler(model, folder):
    results = model.segment_folder(folder, "cat; cat", on_error=lambda *a: pytest.fail("hidden"))
    assert "also belongs" in message(next, results)


def test_pictures_without_a_path_are_numbered(model):
    bad = []
    images = [picture(), "none.png", np.zeros((2, 2, 9), np.uint8), Image.fromarray(picture())]
    results = model.segment_batch(images, "cat; boat", on_error=lambda *pair: bad.append(pair[0]))
    assert [r.source for r in results] == ["image 0", "image 3"]
    assert bad == ["none.png", "image 2"]


def test_results_print_in_a_line(model, small):
    assert repr(small) == "Segmentation(x.png, 10x20: background 90.5%, dog 9.0%, cat 0.5%)"
    assert len(repr(model.encode(picture()))) < 200


# ---- results ------------------------------------------------------------------------------------


@pytest.fixture
def small():
    labels = np.zeros((10, 20), np.int32)
    labels[2:5, 3:9] = 2  # 18 pixels
    labels[9, 19] = 1
    scores = np.eye(4, dtype=np.float32)[labels] * 0.75
    image = picture(10, 20)
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    return Segmentation(
        image, labels, scores, ("background", "cat", "dog", "boat"), palette, "x.png"
    )


def test_areas_and_masks(small):
    assert list(small.areas().items()) == [
        ("background", 181 / 200), ("dog", 18 / 200), ("cat", 1 / 200)
    ]  # fmt: skip
    assert small.mask("dog").sum() == 18
    assert not small.mask("boat").any()
    assert "expected one of" in message(small.mask, "fish")


def test_as_json(small):
    content = json.loads(json.dumps(small.as_dict()))
    assert (content["image"], content["height"], content["width"]) == ("x.png", 10, 20)
    dog = content["found"][1]
    assert dog == {
        "name": "dog", "index": 2, "pixels": 18, "area": 0.09, "score": 0.75,
        "box": [2, 3, 5, 9], "colour": [0, 255, 0],
    }  # fmt: skip
    assert [one["name"] for one in content["found"]] == ["background", "dog", "cat"]


def test_pictures_are_saved(small, tmp_path):
    assert np.array_equal(small.overlay(0), small.image)
    assert (small.overlay(1)[small.labels == 2] == (0, 255, 0)).all()
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")):
        path = small.save(tmp_path / "new" / f"a{suffix}")
        with Image.open(path) as opened:
            assert opened.format == kind
            assert opened.width > 40, "legend and panels fit"
    assert not list(tmp_path.rglob("*.part"))
    assert ".png, .jpg" in message(small.save, tmp_path / "a.bmp")
    assert "opacity" in message(small.overlay, 1.5)


def test_masks_hold_class_numbers(small, tmp_path):
    path = small.save_mask(tmp_path / "m.png")
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(opened), small.labels)
        assert opened.getpalette()[:9] == [0, 0, 0, 255, 0, 0, 0, 255, 0]
    many = tuple(f"class {i}" for i in range(300))
    labels = small.labels * 149
    wide = Segmentation(small.image, labels, None, many, ((1, 2, 3),) * 300)
    assert np.array_equal(np.asarray(Image.open(wide.save_mask(tmp_path / "w.png"))), labels)
    assert "lossless" in message(small.save_mask, tmp_path / "m.jpg")


def test_plot_names_the_classes_found(small):
    ax = small.plot()
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["background 90%", "dog 9%", "cat 0%"]
    assert small.plot(ax) is ax
    matplotlib.pyplot.close("all")
