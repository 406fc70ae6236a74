"""The second backbone: loading, what is refused, and features against raw weights."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import reference_guided as slow
import torch
import torch.nn.functional as F
from guides import CLIP_MEAN, CLIP_STD, guide_folder, tiny_guide

from itaclip import InputError
from itaclip.guide import GUIDES, GuideReads, load_guide, parse_guide

STATS = (CLIP_MEAN, CLIP_STD)
ALL = GuideReads(("tokens", "q", "k", "v"))


def windows(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", [(48, 48), (40, 72), (51, 61)])
@pytest.mark.parametrize("kind", ["vit", "vit16"])
def test_tokens_and_projections_equal_the_raw_weights_with_dinos_positions(kind, size):
    guide, both = tiny_guide(kind), windows(*size)
    found = guide(both, ALL)
    for index, window in enumerate(both):
        tokens, q, k, v, grid = slow.vit(guide.model, window, *STATS)
        assert found.grid == grid == guide.grid(size)
        torch.testing.assert_close(found.tokens[index], tokens, atol=2e-5, rtol=0)
        for letter, expected in zip("qkv", (q, k, v), strict=True):
            own = getattr(found, letter)[index].transpose(0, 1).flatten(1)
            torch.testing.assert_close(own, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "registers", "dinov3", "sam", "whole sam"])
def test_every_kind_gives_a_grid_height_first(kind):
    guide = tiny_guide(kind)
    found = guide(windows(56, 112), ALL)
    h, w = found.grid
    assert (h, w) == guide.grid((56, 112)) and h < w
    assert found.tokens.shape[:2] == (2, h * w)
    assert found.q.shape == found.v.shape == (2, 2, h * w, 64)
    only = guide(windows(56, 112), GuideReads(("k",)))
    assert only.tokens is only.q is only.v is None
    torch.testing.assert_close(only.k, found.k)
    alone = torch.cat([guide(one[None], ALL).tokens for one in windows(56, 112)])
    torch.testing.assert_close(found.tokens, alone, atol=2e-5, rtol=0)


def test_registers_and_cls_are_dropped():
    guide = tiny_guide("registers")
    last = guide.model(guide.prepared(windows(56, 56), ALL)).last_hidden_state
    assert last.shape[1] == 1 + 4 + 16
    torch.testing.assert_close(guide(windows(56, 56), ALL).tokens, last[:, 5:])


def test_normalisation_is_turned_back_and_the_guides_applied():
    pixels = torch.rand(2, 3, 48, 48)
    mean, std = (torch.tensor(values)[:, None, None] for values in STATS)
    prepared = tiny_guide().prepared((pixels - mean) / std, ALL)
    expected = (pixels - slow.column(slow.IMAGENET[0])) / slow.column(slow.IMAGENET[1])
    torch.testing.assert_close(prepared, expected, atol=2e-6, rtol=1e-5)


def test_positions_can_follow_transformers():
    guide = load_guide(guide_folder(), *STATS, positions="size")
    image = windows(40, 72)
    fresh = type(guide.model).from_pretrained(guide_folder(), add_pooling_layer=False).eval()
    plain = fresh(guide.prepared(image, ALL), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(guide(image, ALL).tokens, plain[:, 1:], atol=2e-5, rtol=0)
    dinos = tiny_guide()(image, ALL).tokens
    assert (dinos - plain[:, 1:]).abs().max() > 1e-3


def test_lowered_precision_stays_near():
    guide, image = tiny_guide(), windows(48, 64)
    exact = F.normalize(guide(image, ALL).tokens, dim=-1)
    lowered = guide(image, ALL, torch.bfloat16)
    assert lowered.tokens.dtype == lowered.k.dtype == torch.float32
    difference = (F.normalize(lowered.tokens, dim=-1) - exact).abs().max()
    assert 0 < difference < 0.05


def test_surrounding_autocast_changes_nothing():
    guide, image = tiny_guide(), windows(48, 64)
    expected = guide(image, ALL).tokens
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(guide(image, ALL).tokens, expected)


def test_threads_do_not_mix_projections():
    guide, found = tiny_guide(), {}
    images = [windows(48, 48, batch=1) + i for i in range(4)]
    expected = [guide(image, ALL).k for image in images]

    def run(i):
        found[i] = [guide(images[i], ALL).k for _ in range(5)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        for own in found[i]:
            torch.testing.assert_close(own, expected[i], atol=1e-6, rtol=0)


# ---- loading ------------------------------------------------------------------------------------


def changed_copy(tmp_path, config=None, drop=()):
    folder = tmp_path / "guide"
    shutil.copytree(guide_folder(), folder)
    if config is not None:
        values = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(values))
    for name in drop:
        (folder / name).unlink()
    return folder


def refused(source, text):
    with pytest.raises(InputError, match=text):
        load_guide(source, *STATS)


def test_what_is_unclear_is_refused(tmp_path):
    refused("dino-b8", "'dino-b8' is no known name .storybook-guide")
    refused(tmp_path, "has no config.json")
    folder = changed_copy(tmp_path, {"model_type": "resnet"})
    refused(folder, "model of type 'resnet'; expected one of vit, dinov2")
    shutil.rmtree(folder)
    folder = changed_copy(tmp_path, {"num_hidden_layers": 4})
    refused(folder, "lack 'layers.3")
    shutil.rmtree(folder)
    folder = changed_copy(tmp_path, {"num_hidden_layers": 2})
    refused(folder, "unknown key '(encoder.)?layers?.2")
    shutil.rmtree(folder)
    folder = changed_copy(tmp_path)
    (folder / "model.safetensors").write_bytes(b"not a file of weights")
    refused(folder, "cannot be read")
    (folder / "config.json").write_text("{")
    refused(folder, "config.json cannot be read")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = changed_copy(tmp_path)
    state = load_file(folder / "model.safetensors")
    state["layernorm.bias"][3] = torch.nan
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "'layernorm.bias' in .* not finite")


def test_own_mean_and_deviation_are_read(tmp_path):
    folder = changed_copy(tmp_path)
    about = folder / "preprocessor_config.json"
    about.write_text(json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    guide = load_guide(folder, *STATS)
    assert guide.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert guide.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    about.write_text(json.dumps({"image_mean": 3}))
    refused(folder, "image_mean: expected three numbers")


def test_the_key_is_checked():
    assert parse_guide(None) is None
    assert parse_guide("dino-vitb8") == {"model": "dino-vitb8"}
    assert parse_guide(dict(model="x", sam="sam-vitb"))["sam"] == "sam-vitb"
    for value, text in (
        (3, "expected None, a name .storybook-guide"),
        (dict(sam="sam-vitb"), "expected None, a name"),
        (dict(model="x", patch=8), "unknown key 'patch'"),
        (dict(model="x", positions="bicubic"), "guide.positions: expected one of 'offset'"),
        (dict(model="x", mean=[1, 2]), "guide.mean: expected three numbers"),
        (dict(model="x", sam=1), "guide.sam: expected a name"),
    ):
        with pytest.raises(InputError, match=text):
            parse_guide(value)


def test_the_shipped_guide_is_small_and_loads():
    folder = Path(GUIDES["storybook-guide"].source)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5e6
    guide = load_guide("storybook-guide", *STATS)
    found = guide(windows(112, 112), ALL)
    assert found.tokens.shape == (2, found.grid[0] * found.grid[1], 128)


def test_known_names_say_where_they_come_from():
    assert {"dino-vitb8", "dino-vitb16", "dinov2-vitb14", "dinov3-vitb16"} <= set(GUIDES)
    for known in GUIDES.values():
        assert known.licence and known.trained_on and known.source
