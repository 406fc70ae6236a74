"""Storybook: the same pictures everywhere, masks that fit, captions that tell the truth."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itaclip.errors import InputError
from itaclip.storybook import benchmark
from itaclip.storybook.canvas import Dice, Frame, paint
from itaclip.storybook.captions import DEFINITIONS, SYNONYMS, write_caption
from itaclip.storybook.scenes import CLASSES, PALETTE, Scene, draw_scene
from itaclip.storybook.textures import STUFF
from itaclip.storybook.things import COLOURS, THINGS

ROOT = Path(__file__).resolve().parent.parent
ASSET = ROOT / "itaclip" / "assets" / "storybook-tiny.npz"
TEMPLATES = ("a photo of a {}.", "a drawing of the {}.")


# ------------------------------------------------------------------------------------- scenes


def test_scenes_are_frozen():
    """The pixels of a few scenes, as first drawn; a change would change every figure."""
    scenes = [
        draw_scene((5, k), (61 + 2 * k, 83 - 3 * k), (0, 4), (9, 25), (1, 3)) for k in range(12)
    ]
    found = benchmark.pixel_checksum((s.image, s.mask) for s in scenes)
    assert found == "d8daeb5743e605b7efe8752fc2e904355e3d19fb62147113c257f91b00a389b7"


def test_random_numbers_are_frozen():
    dice = Dice((1, 2))
    assert [dice.integer(0, 999) for _ in range(4)] == [584, 258, 400, 728]
    raw = hashlib.sha256(dice.noise(7, 11, 2.5, 3).tobytes()).hexdigest()
    assert raw[:16] == "6ce1d142e44e2e2d"


def test_scene_depends_on_its_seed_alone():
    first = draw_scene((3, 1), (53, 67))
    np.random.seed(0)
    random.seed(0)
    again, other = draw_scene((3, 1), (53, 67)), draw_scene((3, 2), (53, 67))
    assert np.array_equal(first.image, again.image) and np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [(53, 97), (97, 53), (31, 31)])
def test_scene_shapes_and_labels(size):
    for index in range(6):
        scene = draw_scene((11, index), size, (1, 5), (8, 30), (1, 3))
        assert scene.image.shape == (*size, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == size and scene.mask.dtype == np.uint8
        assert scene.mask.max() < len(CLASSES)
        shares = {CLASSES[k]: float((scene.mask == k).mean()) for k in np.unique(scene.mask)}
        assert scene.shares == pytest.approx(shares)
        assert list(scene.shares.values()) == sorted(scene.shares.values(), reverse=True)
        assert set(scene.shares) & set(THINGS) <= set(scene.counts) == set(scene.colours)


def test_picture_and_mask_agree():
    """Where two scenes differ by a thing alone, exactly the masked pixels (and a rim) differ."""
    for name, (shape, colours) in THINGS.items():
        frame = Frame((83, 97), (41, 47), 23.0, 1.1, 0.1, True)
        parts = shape(frame, Dice((4, 4)), COLOURS[colours[0]])
        picture = np.full((83, 97, 3), 77, dtype=np.float32)
        inside = np.zeros((83, 97), dtype=bool)
        rim = np.zeros((83, 97), dtype=bool)
        for distance, colour in parts:
            assert distance.shape == frame.x.shape, name
            paint(picture[frame.window], distance, colour, np.ones_like(frame.x))
            inside[frame.window] |= distance < 0
            rim[frame.window] |= distance < 0.5
        changed = (picture != 77).any(-1)
        assert changed[inside].mean() > 0.99, name
        assert not changed[~rim].any(), name
        assert 0.05 < inside.mean() < 0.5, name


def test_mirror_and_place():
    """A mirrored frame gives the mirrored shape, height comes first."""
    left = Frame((41, 61), (20, 30), 8.0).polygon((-1, -1), (0.5, 0), (-1, 1))
    right = Frame((41, 61), (20, 30), 8.0, mirror=True).polygon((-1, -1), (0.5, 0), (-1, 1))
    assert np.allclose(left, right[:, ::-1], atol=1e-5)
    low = Frame((97, 31), (90, 5), 6.0)
    assert low.window[0].stop == 97 and low.window[1].start == 0
    assert Frame((31, 37), (500, 5), 6.0).window is None


def test_classes_and_palette():
    assert len(CLASSES) == len(set(CLASSES)) == len(PALETTE) == len(STUFF) + len(THINGS)
    assert len({tuple(colour) for colour in PALETTE}) == len(PALETTE)


# ----------------------------------------------------------------------------------- captions


def _says(text: str, phrase: str) -> bool:
    return re.search(rf"(?<![a-z]){re.escape(phrase)}(?:e?s)?(?![a-z])", text) is not None


def test_captions_name_only_what_is_there():
    rng = random.Random(7)
    spoken: dict[str, set[str]] = {name: set() for name in CLASSES}
    for index in range(500):
        size = (61, 67)
        scene = draw_scene((13, index), size, (0, 4), (9, 24), (1, 2))
        caption = write_caption(scene, rng, TEMPLATES if index % 2 else ())
        assert caption.named and caption.named <= set(scene.shares)
        for name in CLASSES:
            wordings = {w for w in (*SYNONYMS[name], *DEFINITIONS[name]) if _says(caption.text, w)}
            if name in caption.named:
                spoken[name] |= wordings
        for name in set(THINGS) - set(scene.shares):  # a thing's words are its own
            own = [
                w
                for w in SYNONYMS[name]
                if not any(
                    _says(other, w)
                    for c in CLASSES
                    if c != name
                    for other in (*SYNONYMS[c], *DEFINITIONS[c])
                )
            ]
            assert not any(_says(caption.text, w) for w in own), caption.text
    assert all(len(wordings) >= 2 for wordings in spoken.values()), spoken


def test_captions_read_no_pixels():
    scene = draw_scene((17, 3), (53, 59))
    blind = Scene(None, None, scene.shares, scene.colours, scene.counts)
    for seed in range(20):
        assert write_caption(scene, random.Random(seed), TEMPLATES) == write_caption(
            blind, random.Random(seed), TEMPLATES
        )


def test_background_is_often_unnamed():
    scene = Scene(None, None, {"grass": 0.8, "car": 0.2}, {"car": "red"}, {"car": 1})
    rng = random.Random(3)
    named = [write_caption(scene, rng).named for _ in range(300)]
    assert all("car" in names for names in named)
    assert 0.2 < np.mean(["grass" in names for names in named]) < 0.6


# ---------------------------------------------------------------------------------- benchmark


@pytest.fixture
def small(monkeypatch):
    """Splits of a few pictures with their right checksums."""
    monkeypatch.setattr(benchmark, "SPLITS", {"val": (31_001, 3), "test": (41_003, 4)})
    sums = {
        split: benchmark.pixel_checksum(
            (scene.image, scene.mask)
            for scene in (benchmark.evaluation_scene(split, k) for k in range(count))
        )
        for split, (_, count) in benchmark.SPLITS.items()
    }
    monkeypatch.setattr(benchmark, "CHECKSUMS", sums)


def _files(root: Path) -> dict[str, int]:
    return {str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file()}


def test_split_on_disk(small, tmp_path):
    assert benchmark.ensure_split(tmp_path, "test", progress=False) == tmp_path
    assert len(_files(tmp_path)) == 4 + 4 + 1
    for index in range(4):
        scene = benchmark.evaluation_scene("test", index)
        image = np.asarray(Image.open(tmp_path / f"images/test/{index:04d}.png"))
        label = Image.open(tmp_path / f"annotations/test/{index:04d}.png")
        assert label.mode == "L"
        assert np.array_equal(image, scene.image) and np.array_equal(label, scene.mask)
    assert benchmark.verify_split(tmp_path, "test")
    before = _files(tmp_path)
    benchmark.ensure_split(tmp_path, "test", progress=False)
    assert _files(tmp_path) == before, "a whole split is left alone"
    benchmark.ensure_split(tmp_path, "val", progress=False)
    assert len(_files(tmp_path)) == 9 + 7


@pytest.mark.parametrize("damage", ["picture", "truncated", "mask", "manifest", "checksum"])
def test_damage_is_mended_and_said(small, tmp_path, capsys, damage):
    benchmark.ensure_split(tmp_path, "val", progress=False)
    manifest = tmp_path / "storybook_val.json"
    if damage == "picture":
        (tmp_path / "images/val/0001.png").unlink()
    elif damage == "truncated":
        os.truncate(tmp_path / "images/val/0001.png", 100)
    elif damage == "mask":
        (tmp_path / "annotations/val/0002.png").unlink()
    elif damage == "manifest":
        manifest.write_text("{")
    else:
        manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0'))
    assert not benchmark.verify_split(tmp_path, "val")
    capsys.readouterr()
    benchmark.ensure_split(tmp_path, "val", progress=False)
    assert "damaged" in capsys.readouterr().out
    assert benchmark.verify_split(tmp_path, "val")
    assert not list(tmp_path.glob(".storybook*")), "nothing temporary stays"


def test_verify_reads_pixels(small, tmp_path):
    benchmark.ensure_split(tmp_path, "val", progress=False)
    path = tmp_path / "images/val/0001.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    assert not benchmark.verify_split(tmp_path, "val")


def test_interrupted_drawing_leaves_nothing(small, tmp_path, monkeypatch):
    whole = benchmark.evaluation_scene

    def stop(split, index):
        if index == 2:
            raise KeyboardInterrupt
        return whole(split, index)

    monkeypatch.setattr(benchmark, "evaluation_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        benchmark.ensure_split(tmp_path, "val", progress=False)
    assert _files(tmp_path) == {}


def test_wrong_pixels_are_refused(small, tmp_path, monkeypatch):
    monkeypatch.setitem(benchmark.CHECKSUMS, "val", "0" * 64)
    with pytest.raises(InputError, match="checksum"):
        benchmark.ensure_split(tmp_path, "val", progress=False)
    assert _files(tmp_path) == {}


def test_errors(tmp_path):
    with pytest.raises(InputError, match=r"'val'.*'tset'"):
        benchmark.ensure_split(tmp_path, "tset")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        benchmark.ensure_split(tmp_path / "file", "val")
    with pytest.raises(InputError, match="0 to 199"):
        benchmark.evaluation_scene("test", 200)


def _generate(root: str) -> None:
    benchmark.ensure_split(root, "val", progress=False)


def test_two_at_once(small, tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_generate, args=(str(tmp_path),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert benchmark.verify_split(tmp_path, "val")
    assert not list(tmp_path.glob(".storybook*"))


def test_frozen_splits():
    """The real splits: checksums hold, and every class is to be seen in every split."""
    for split, (_, count) in benchmark.SPLITS.items():
        scenes = [benchmark.evaluation_scene(split, k) for k in range(count)]
        found = benchmark.pixel_checksum((s.image, s.mask) for s in scenes)
        assert found == benchmark.CHECKSUMS[split]
        for name in CLASSES:
            assert sum(name in scene.shares for scene in scenes) >= count / 20, (split, name)
        assert min(min(scene.mask.shape) for scene in scenes) > 112


# -------------------------------------------------------------------------- texts and the model


def _first_names() -> list[str]:
    lines = (ROOT / "configs" / "cls_storybook.txt").read_text(encoding="utf-8").splitlines()
    return [line.split(",")[0].strip() for line in lines]


def test_class_file():
    assert _first_names() == list(CLASSES)


@pytest.mark.parametrize("file", ["storybook_synonyms.txt", "storybook_definitions.txt"])
def test_auxiliary_texts(file):
    """One text a class, phrased anew, in words that the captions have taught."""
    lines = (ROOT / "aux_texts" / file).read_text(encoding="utf-8").splitlines()
    pairs = [tuple(part.strip() for part in line.split(">=")) for line in lines]
    assert [name for name, _ in pairs] == list(CLASSES)
    taught = (
        {
            w
            for name in CLASSES
            for text in (*SYNONYMS[name], *DEFINITIONS[name])
            for w in re.findall(r"[a-z]+", text)
        }
        | set(COLOURS)
        | {"or", "and", "of", "with"}
    )
    for name, text in pairs:
        assert text not in DEFINITIONS[name]
        assert set(re.findall(r"[a-z]+", text)) <= taught, text


def test_asset():
    assert ASSET.stat().st_size <= 12_000_000
    with np.load(ASSET, allow_pickle=False) as file:
        state = {key: file[key] for key in file.files}
    assert all(array.dtype == np.float16 for array in state.values())
    assert all(np.isfinite(array).all() for array in state.values())
    width, channels, patch, _ = state["visual.conv1.weight"].shape
    assert width % 64 == 0 and channels == 3
    assert state["visual.positional_embedding"].shape == ((112 // patch) ** 2 + 1, width)
    assert state["token_embedding.weight"].shape[0] == 49408
    assert state["positional_embedding"].shape[0] == 77
    assert state["visual.proj"].shape[1] == state["text_projection"].shape[1]
    for block in range(12):
        shape = state[f"visual.transformer.resblocks.{block}.attn.in_proj_weight"].shape
        assert shape == (3 * width, width)
    assert "visual.transformer.resblocks.12.ln_1.weight" not in state
    assert np.count_nonzero(state["token_embedding.weight"].any(axis=1)) < 2000


def test_model_card_names_the_asset():
    card = (ROOT / "docs" / "storybook_tiny" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert hashlib.sha256(ASSET.read_bytes()).hexdigest() in card


def test_nothing_is_drawn_into_the_root_of_the_file_system(tmp_path, monkeypatch):
    from itaclip.data import datasets

    drawn = []
    monkeypatch.setattr(datasets, "ensure_split", lambda root, split: drawn.append(str(root)))
    monkeypatch.setenv("ITACLIP_CACHE_DIR", str(tmp_path))
    monkeypatch.chdir("/")
    datasets.StorybookDataset("data/storybook", lazy_init=True)
    monkeypatch.chdir(tmp_path)
    datasets.StorybookDataset("data/storybook", lazy_init=True)
    assert drawn == [str(tmp_path / "storybook"), "data/storybook"]
