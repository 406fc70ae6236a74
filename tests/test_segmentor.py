"""The whole method against the slow reference, through mmseg's public interface."""

import pytest
import reference
import torch
from conftest import bgr_image, normalised
from mmseg.structures import SegDataSample

from itaclip import InputError, ITACLIPSegmentor, Vocabulary
from itaclip.clip_model import save_clip

NAMES = [["sky", "wall", "tree"], ["cat"], ["dog", "puppy"], ["boat"]]
AUX = {"cat": "small furry animal", "dog": "loyal pet", "boat": "vessel on water"}


def vocabulary(background=True):
    aux = AUX if background else {"sky": "blue air above", **AUX}
    return Vocabulary.from_lists(NAMES, aux, background)


@pytest.fixture(scope="module")
def texts(tiny_clip):
    with torch.no_grad():
        return reference.blended_text(tiny_clip, NAMES, [None, *AUX.values()], 0.15)


def run(model, images, sizes=None):
    samples = []
    for index, image in enumerate(images):
        size = sizes[index] if sizes else tuple(image.shape[1:])
        samples.append(SegDataSample(metainfo=dict(ori_shape=size)))
    return model.test_step(dict(inputs=list(images), data_samples=samples))


def assert_close(result, expected, prob_thd=0.0, closed=False):
    scores, labels = expected
    torch.testing.assert_close(result.seg_logits.data, scores, atol=1e-4, rtol=0)
    assert result.pred_sem_seg.data.shape == (1, *labels.shape)
    top = scores.topk(2, dim=0).values
    sure = (top[0] - top[1] > 1e-3) & ((top[0] - prob_thd).abs() > 1e-3)
    if not closed:  # closing spreads a doubtful pixel to its neighbours
        assert sure.float().mean() > 0.9
        assert torch.equal(result.pred_sem_seg.data[0][sure], labels[sure])
    else:
        assert (result.pred_sem_seg.data[0] == labels).float().mean() > 0.99


def build(path, **changes):
    settings = dict(
        clip_model=path,
        vocabulary=vocabulary(),
        aux_text_weight=0.15,
        test_cfg=dict(mode="slide", crop_size=64, stride=28),
    )
    return ITACLIPSegmentor(**(settings | changes)).eval()


@pytest.mark.parametrize("recipe", reference.TABLE)
def test_every_recipe_equals_the_formulas(recipe, tiny_clip, tiny_clip_path, texts):
    model = build(tiny_clip_path, attention=recipe)
    image = bgr_image(83, 101)
    expected = reference.segment(
        tiny_clip, normalised(image), (83, 101), *texts, reference.TABLE[recipe], crop=(64, 64)
    )
    assert expected[0].std(dim=(1, 2)).min() > 1e-3, "the case is trivial"
    assert_close(run(model, [image])[0], expected)


@pytest.mark.parametrize(
    ("size", "output", "test_cfg"),
    [
        ((97, 71), (131, 89), dict(mode="slide", crop_size=(64, 64), stride=(28, 28))),
        ((64, 64), (64, 64), dict(mode="slide", crop_size=(64, 64), stride=(28, 28))),
        ((53, 139), (71, 173), dict(mode="slide", crop_size=(64, 64), stride=(32, 16))),
        ((41, 37), (43, 47), dict(mode="slide", crop_size=(64, 64), stride=(28, 28))),
        ((83, 109), (53, 67), dict(mode="slide", crop_size=(47, 59), stride=(19, 23))),
        ((32, 128), (32, 128), dict(mode="whole")),
        ((73, 91), (101, 61), dict(mode="whole")),
    ],
)
def test_sizes_and_windows(size, output, test_cfg, tiny_clip, tiny_clip_path, texts):
    model = build(tiny_clip_path, test_cfg=test_cfg, image_engineering_weight=0.7)
    image = bgr_image(*size)
    crop = test_cfg.get("crop_size")
    expected = reference.segment(
        tiny_clip, normalised(image), output, *texts, reference.TABLE["itaclip"],
        lam=0.7, crop=crop, stride=test_cfg.get("stride"),
    )  # fmt: skip
    assert_close(run(model, [image], [output])[0], expected)


def test_everything_switched_on(tiny_clip, tiny_clip_path, texts):
    model = build(
        tiny_clip_path,
        image_engineering_weight=0.75,
        logit_scale=60,
        prob_thd=0.3,
        area_thd=0.1,
        label_closing=3,
        pamr=dict(num_iter=10, dilations=(8, 16)),
    )
    image = bgr_image(79, 97)
    expected = reference.segment(
        tiny_clip, normalised(image), (113, 127), *texts, reference.TABLE["itaclip"], lam=0.75,
        crop=(64, 64), scale=60, prob_thd=0.3, area_thd=0.1, label_closing=3,
        pamr_args=dict(num_iter=10, dilations=(8, 16)),
    )  # fmt: skip
    assert_close(run(model, [image], [(113, 127)])[0], expected, 0.3, closed=True)


def test_patch_size_and_depth_are_read_from_the_weights(tmp_path, texts):
    from conftest import random_clip

    clip = random_clip(seed=3, patch=8, resolution=40, layers=6)
    path = save_clip(clip, tmp_path / "six")
    image = bgr_image(61, 47)
    with torch.no_grad():
        own = reference.blended_text(clip, NAMES, [None] * 4, 0)
    attention = dict(recipe="itaclip", middle_layers=(2, 5), gaussian_std=1.5)
    model = ITACLIPSegmentor(
        str(path),
        vocabulary=Vocabulary.from_lists(NAMES),
        attention=attention,
        test_cfg=dict(mode="slide", crop_size=40, stride=20),
    )
    recipe = (["qq", "kk"], 1, 0, [2, 5], 1.5)
    expected = reference.segment(
        clip, normalised(image), (61, 47), *own, recipe, crop=(40, 40), stride=(20, 20)
    )
    assert_close(run(model, [image])[0], expected)


def test_a_batch_equals_its_images_one_by_one(tiny_clip_path):
    model = build(tiny_clip_path, image_engineering_weight=0.7, area_thd=0.1, pamr={})
    same = [bgr_image(71, 89, seed) for seed in range(3)]
    mixed = [bgr_image(71, 89), bgr_image(89, 71), bgr_image(43, 61)]
    for images in (same, mixed):
        together = run(model, images)
        for image, result in zip(images, together, strict=True):
            alone = run(model, [image])[0]
            assert torch.equal(alone.seg_logits.data, result.seg_logits.data)
            assert torch.equal(alone.pred_sem_seg.data, result.pred_sem_seg.data)


def test_the_window_batch_changes_nothing_but_rounding(tiny_clip_path):
    image = bgr_image(97, 113)
    results = [
        run(build(tiny_clip_path, window_batch=batch, image_engineering_weight=0.7), [image])[0]
        for batch in (None, 1, 5)
    ]
    for result in results[1:]:
        difference = result.seg_logits.data - results[0].seg_logits.data
        assert difference.abs().max() < 1e-5


def test_two_runs_are_bit_equal(tiny_clip_path):
    image = bgr_image(75, 97)
    settings = dict(image_engineering_weight=0.7, pamr={}, label_closing=3)
    first, second = (run(build(tiny_clip_path, **settings), [image])[0] for _ in range(2))
    assert torch.equal(first.seg_logits.data, second.seg_logits.data)


def test_kept_features_serve_any_words(tiny_clip_path):
    model = build(tiny_clip_path, image_engineering_weight=0.7)
    image = normalised(bgr_image(83, 97))
    kept = model.extract_feat(image)
    words = Vocabulary.from_lists(["bird", ["car", "automobile"]])
    model.set_vocabulary(words)
    torch.testing.assert_close(
        model.query_logits(kept), model.query_logits(image), atol=1e-6, rtol=0
    )
    assert model.query_logits(kept).shape == (83, 97, 3)


def test_padding_of_a_preprocessor_is_taken_off(tiny_clip_path):
    model = build(tiny_clip_path)
    image = normalised(bgr_image(66, 78))
    padded = torch.nn.functional.pad(image, (3, 5, 7, 2), value=9.0)
    sample = SegDataSample(metainfo=dict(ori_shape=(66, 78), img_padding_size=[3, 5, 7, 2]))
    result = model.predict([padded], [sample])[0]
    plain = model.predict([image])[0]
    assert torch.equal(result.seg_logits.data, plain.seg_logits.data)


def test_flipped_samples_are_flipped_back(tiny_clip_path):
    model = build(tiny_clip_path)
    image = normalised(bgr_image(66, 78))
    for direction, axis in (("horizontal", (2,)), ("vertical", (1,)), ("diagonal", (1, 2))):
        meta = dict(ori_shape=(66, 78), flip=True, flip_direction=direction)
        result = model.predict([image], [SegDataSample(metainfo=meta)])[0]
        plain = model.predict([image])[0]
        torch.testing.assert_close(result.seg_logits.data.flip(axis), plain.seg_logits.data)


@pytest.mark.parametrize("pamr", [None, dict(num_iter=3, dilations=(2, 4))])
@pytest.mark.parametrize("area_thd", [None, 0.2])
def test_labels_in_strips_equal_labels_of_scores(pamr, area_thd, tiny_clip_path, monkeypatch):
    settings = dict(pamr=pamr, area_thd=area_thd, logit_scale=60, prob_thd=0.2, label_closing=3)
    image, size = bgr_image(83, 97), (119, 131)
    whole = run(build(tiny_clip_path, **settings), [image], [size])[0]
    monkeypatch.setattr("itaclip.refinement._STRIP_ELEMENTS", 131 * 7 * 20)
    monkeypatch.setattr("itaclip.refinement._TILE_ELEMENTS", dict(cpu=131 * 7 * 20))
    strips = run(build(tiny_clip_path, return_scores=False, **settings), [image], [size])[0]
    assert "seg_logits" not in strips
    assert len(whole.pred_sem_seg.data.unique()) > 1
    same = (strips.pred_sem_seg.data == whole.pred_sem_seg.data).float().mean()
    assert same > 0.999


@pytest.mark.parametrize("many", [False, True])
def test_one_bar_over_the_windows_of_heavy_images_alone(many, tiny_clip_path, monkeypatch, capsys):
    if many:
        monkeypatch.setattr("itaclip.features._MANY_WINDOWS", 4)
    run(build(tiny_clip_path), [bgr_image(83, 97)])
    assert ("windows:" in capsys.readouterr().err) == many


def test_more_than_255_classes(tiny_clip_path):
    names = [f"thing {i}" for i in range(300)]
    model = build(
        tiny_clip_path,
        vocabulary=Vocabulary.from_lists(names),
        aux_text_weight=0.0,
        label_closing=3,
    )
    model.text_features = torch.nn.functional.normalize(
        torch.randn(300, 32, generator=torch.Generator().manual_seed(1)), dim=-1
    )
    result = run(model, [bgr_image(65, 70)])[0]
    assert result.seg_logits.data.shape == (300, 65, 70)
    assert result.pred_sem_seg.data.max() > 255


def test_lower_precisions_stay_close(tiny_clip_path):
    image = bgr_image(83, 97)
    exact = run(build(tiny_clip_path), [image])[0].seg_logits.data
    for precision in ("bf16", "fp16"):
        model = build(tiny_clip_path, precision=precision)
        difference = (run(model, [image])[0].seg_logits.data - exact).abs()
        assert 0 < difference.max() < 0.05
        assert model.image_encoder.visual.conv1.weight.dtype == torch.float32


def test_memory_running_out_halves_the_batch(tiny_clip_path, monkeypatch):
    model = build(tiny_clip_path, window_batch=8)
    image = bgr_image(120, 120)
    expected = run(model, [image])[0].seg_logits.data
    seen, encode = [], model.image_encoder.forward

    def scarce(images, text):
        seen.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(images, text)

    monkeypatch.setattr(model.image_encoder, "forward", scarce)
    result = run(model, [image])[0].seg_logits.data
    assert seen[:3] == [8, 4, 2]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)

    def broken(images, text):
        raise RuntimeError("something else")

    monkeypatch.setattr(model.image_encoder, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        run(model, [image])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(attention="nclip"), ["attention", "'nclip'", "naclip"]),
        (dict(attention=dict(recipe="itaclip", sigma=3)), ["'sigma'", "gaussian_std"]),
        (dict(attention=dict(recipe="itaclip", middle_layers=(7, 12))), ["12", "1 to 11"]),
        (dict(attention=dict(recipe="maskclip", gaussian_std=5.0)), ["gaussian_std", "identity"]),
        (dict(attention=dict(recipe="naclip_n_only", gaussian_std=None)), ["window"]),
        (dict(attention=dict(recipe="maskclip", middle_layers=(3,))), ["middle_layers"]),
        (dict(attention=dict(recipe="clip", residual=1)), ["residual", "True or False"]),
        (dict(attention=["itaclip"]), ["attention", "recipe"]),
        (dict(return_scores="no"), ["return_scores", "True or False"]),
        (dict(text_cache=1), ["text_cache", "True or False"]),
        (dict(window_batch=True), ["window_batch", "True"]),
        (dict(init_cfg=dict(type="Pretrained")), ["init_cfg", "None"]),
        (dict(image_engineering_weight=1.5), ["image_engineering_weight", "1.5"]),
        (dict(aux_text_weight=-0.1), ["aux_text_weight"]),
        (dict(prob_thd=2), ["prob_thd"]),
        (dict(area_thd="a"), ["area_thd"]),
        (dict(label_closing=2), ["label_closing", "odd"]),
        (dict(logit_scale=0), ["logit_scale"]),
        (dict(pamr=dict(iterations=3)), ["pamr", "num_iter"]),
        (dict(pamr=dict(dilations=())), ["pamr.dilations"]),
        (dict(precision="half"), ["precision", "'half'"]),
        (dict(test_cfg=dict(mode="slid")), ["test_cfg", "slide"]),
        (dict(test_cfg=dict(mode="whole", stride=3)), ["test_cfg", "'stride'"]),
        (dict(test_cfg=dict(mode="slide", crop_size=32, stride=48)), ["stride", "never be seen"]),
        (dict(clip_model="RN50"), ["RN50", "ResNet"]),
        (dict(clip_model="ViT-B/17"), ["ViT-B/17", "ViT-B/16"]),
        (dict(clip_model="nowhere/x.pt"), ["clip_model", "nowhere"]),
        (dict(vocabulary=None), ["name_path"]),
        (
            dict(vocabulary=None, name_path="configs/cls_none.txt"),
            ["name_path", "cls_none.txt nor"],
        ),
        (dict(pretrained="x.pth"), ["pretrained"]),
        (dict(window_batch=0), ["window_batch"]),
    ],
)
def test_bad_values_are_named(changes, words, tiny_clip_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        build(tiny_clip_path, **changes)
    for word in words:
        assert word in str(caught.value)


def test_a_recipe_for_12_blocks_is_not_applied_to_another_depth(tmp_path):
    from conftest import random_clip

    path = save_clip(random_clip(layers=24, width=64), tmp_path / "deep")
    words = Vocabulary.from_lists(["cat", "dog"])
    with pytest.raises(InputError, match="24"):
        ITACLIPSegmentor(str(path), vocabulary=words)
    scaled = dict(recipe="itaclip", middle_layers="scaled")
    model = ITACLIPSegmentor(str(path), vocabulary=words, attention=scaled)
    assert model.image_encoder.recipe.middle_layers == (14, 16, 20)
    ITACLIPSegmentor(str(path), vocabulary=words, attention="naclip")


def test_an_image_smaller_than_a_patch_is_refused(tiny_clip_path):
    with pytest.raises(InputError, match="16x16"):
        run(build(tiny_clip_path), [bgr_image(9, 40)])
