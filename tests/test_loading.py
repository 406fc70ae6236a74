"""Images and masks of every kind: equal to mmseg's where sound, else one sentence with the file."""

import io
import os
import pickle
import struct
import zlib

import numpy as np
import pytest
from mmcv.transforms import Compose, LoadImageFromFile, Resize
from mmengine.dataset import pseudo_collate
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
from PIL import Image
from torch.utils.data import DataLoader

from itaclip import BadSampleError, InputError, LoadCheckedAnnotations, LoadCheckedImage
from itaclip.data.guard import SKIPPED, GuardedPipeline, LabelRules, guard_loading
from itaclip.data.loading import MAX_PIXELS, opened

PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS
HEIGHT, WIDTH = 83, 131
Y, X = np.mgrid[:HEIGHT, :WIDTH]
COLOURS = np.stack([X % 256, Y % 256, (3 * X + Y) % 256], -1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(mode=None, file_format="PNG", array=COLOURS, **options):
    picture = Image.fromarray(array)
    picture = picture if mode is None else picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(height, width):
    """A PNG of a few bytes that claims to be huge."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n"
JPEG, PNG = encoded(file_format="JPEG", array=NOISE), encoded(array=NOISE)
GREY = (X % 3).astype(np.uint8)
SIXTEEN = (Y * 300 + X).astype(np.uint16)
SOUND = {
    "rgb.jpg": JPEG,
    "progressive.jpg": encoded(file_format="JPEG", progressive=True),
    "grey.jpg": encoded("L", "JPEG"),
    "cmyk.jpg": encoded("CMYK", "JPEG"),
    "turned.jpg": encoded(file_format="JPEG", exif=turned(6)),
    "padded.jpg": JPEG + bytes(2000),
    "rgb.png": PNG,
    "rgba.png": encoded("RGBA"),
    "grey_alpha.png": encoded("LA"),
    "palette.png": encoded("P"),
    "bits.png": encoded("1"),
    "sixteen.png": encoded(array=SIXTEEN),
    "sixteen.tif": encoded(file_format="TIFF", array=SIXTEEN),
    "rgb.bmp": encoded(file_format="BMP"),
    "rgb.webp": encoded(file_format="WEBP"),
    "one_pixel.png": encoded(array=COLOURS[:1, :1]),
    "wrong_suffix.jpg": PNG,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_are_loaded_as_mmcv_does(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(SOUND[name])
    stock = LoadImageFromFile()(dict(img_path=str(path)))
    own = LoadCheckedImage()(dict(img_path=str(path)))
    assert own.keys() == stock.keys()
    assert own["img"].dtype == np.uint8
    np.testing.assert_array_equal(own["img"], stock["img"])
    shape = dict(turned=(WIDTH, HEIGHT), one_pixel=(1, 1)).get(path.stem, (HEIGHT, WIDTH))
    assert own["img_shape"] == own["ori_shape"] == shape


BAD_IMAGES = {
    "empty.jpg": (b"", "it is empty"),
    "text.jpg": (b"404 not found", "no picture of a known format"),
    "page.jpg": (b"<html>404 not found</html>", r"is a web page \(HTML\), not the file itself"),
    "lfs.jpg": (LFS, r"is a pointer of Git LFS, not the file itself; run 'git lfs pull'"),
    "half.jpg": (JPEG[: len(JPEG) // 2], "truncated"),
    "nearly.jpg": (JPEG[:-40], "truncated"),
    "progressive.jpg": (SOUND["progressive.jpg"][:-900], "truncated"),
    "zeros.jpg": (JPEG[:-3000] + bytes(6000), "cannot be read"),
    "half.png": (PNG[: len(PNG) // 2], "truncated"),
    "endless.png": (PNG[:-12], "cannot be read"),
    "flipped.png": (PNG[:900] + bytes([PNG[900] ^ 4]) + PNG[901:], "cannot be read"),
    "half.bmp": (SOUND["rgb.bmp"][:4000], "truncated"),
    "half.webp": (SOUND["rgb.webp"][:300], "cannot be read"),
    "half.tif": (SOUND["sixteen.tif"][:4000], "truncated"),
    "fractions.tif": (
        encoded(file_format="TIFF", array=COLOURS[..., 0].astype(np.float32)),
        "OpenCV cannot decode",
    ),
    "bomb.png": (bomb(70_000, 50_000), f"has 70000x50000 pixels .* limit of {MAX_PIXELS};"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_bad_images_are_named(name, tmp_path):
    content, words = BAD_IMAGES[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadSampleError, match=words) as caught:
        LoadCheckedImage()(dict(img_path=str(path)))
    assert caught.value.path == str(path)
    assert str(caught.value).startswith(f"{path}: the image ")
    assert "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.path) == (str(caught.value), str(path))


def test_files_that_cannot_be_opened(tmp_path):
    for path, words in ((tmp_path / "none.jpg", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(BadSampleError, match=words):
            LoadCheckedImage()(dict(img_path=str(path)))


def test_the_limit_of_pixels_can_be_raised(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    sample = dict(img_path=str(path))
    limit = HEIGHT * WIDTH
    assert LoadCheckedImage(max_pixels=limit)(sample)["img"].shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(BadSampleError, match="max_pixels"):
        LoadCheckedImage(max_pixels=limit - 1)(sample)
    path.write_bytes(bomb(20_000, 20_000))  # beyond Pillow's own limit: ours counts
    with pytest.raises(BadSampleError, match="cannot be read"):
        LoadCheckedImage(max_pixels=10**9)(sample)


def test_pillow_s_own_limit_is_never_touched(tmp_path):
    """It belongs to the process: another thread may be opening a picture just now."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    with opened(PNG, path, "image"):
        assert Image.MAX_IMAGE_PIXELS == PILLOWS_LIMIT


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", [LoadCheckedImage, LoadCheckedAnnotations])
def test_pipes_and_devices_are_no_files(kind, tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for path, words in ((pipe, "is a pipe"), ("/dev/zero", "is a device")):
        keys = ("img_path", "seg_map_path")
        with pytest.raises(BadSampleError, match=f"cannot be read .*{words}"):
            kind()({**dict.fromkeys(keys, str(path)), "seg_fields": []})


@pytest.mark.parametrize("options", [{"max_pixels": 0}, {"max_pixels": "9"}, {"max_pixels": 1.5}])
def test_bad_settings(options):
    with pytest.raises(InputError, match="max_pixels"):
        LoadCheckedImage(**options)
    with pytest.raises(InputError, match="imdecode_backend"):
        LoadCheckedImage(imdecode_backend="tifffile")


# ---- masks --------------------------------------------------------------------------------------


def labels_of(path, kind=LoadCheckedAnnotations, reduce=False, label_map=None):
    sample = dict(
        seg_map_path=str(path), reduce_zero_label=reduce, label_map=label_map, seg_fields=[]
    )
    return kind()(sample)["gt_seg_map"]


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("label_map", [None, {0: 3, 3: 0, 7: 255}])
def test_masks_are_loaded_as_mmseg_does(reduce, label_map, tmp_path):
    path = tmp_path / "mask.png"
    grey = np.arange(256, dtype=np.uint8).reshape(8, 32)
    for mode in ("L", "P"):
        Image.fromarray(grey).convert(mode).save(path)
        own = labels_of(path, reduce=reduce, label_map=label_map)
        stock = labels_of(path, LoadAnnotations, reduce, label_map)
        assert own.dtype == stock.dtype == np.uint8
        np.testing.assert_array_equal(own, stock)


def test_wide_masks_are_exact_or_refused(tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 200, 255]], dtype=np.uint16)).save(path)
    assert labels_of(path).tolist() == [[0, 200, 255]]
    Image.fromarray(np.array([[0, 300]], dtype=np.uint16)).save(path)
    with pytest.raises(BadSampleError, match=r"mask\.png: the mask holds the value 300"):
        labels_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encoded(), "has colours .mode RGB."),
        (encoded("RGBA"), "has colours"),
        (encoded("RGB", array=GREY), r"3 channels .mode RGB. that hold the same numbers"),
        (encoded("RGBA", array=GREY), r"4 channels .mode RGBA. that hold the same"),
        (encoded("LA", array=GREY), r"2 channels .mode LA. that hold the same"),
        (encoded(file_format="JPEG", array=GREY), r"is a JPEG, which blurs numbers"),
        (LFS, "pointer of Git LFS"),
        (encoded(file_format="TIFF", array=COLOURS[..., 0].astype(np.float32)), "has fractions"),
        (encoded("L")[:-100], "cannot be read"),
        (b"", "it is empty"),
        (bomb(70_000, 50_000), "has 70000x50000 pixels"),
    ],
)
def test_bad_masks_are_named(content, words, tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(content)
    with pytest.raises(BadSampleError, match=words) as caught:
        labels_of(path)
    assert caught.value.path == str(path)


# ---- a data set under guard ---------------------------------------------------------------------


@pytest.fixture
def loader_of(tmp_path):
    """Builds a loader of six samples with mmseg's own transforms; the odd ones are bad."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for index in range(6):
        Image.fromarray(NOISE).save(tmp_path / "images" / f"{index}.png")
        Image.fromarray((X % 3).astype(np.uint8)).save(tmp_path / "masks" / f"{index}.png")
    (tmp_path / "images/1.png").write_bytes(PNG[:500])
    Image.fromarray(COLOURS).save(tmp_path / "masks/3.png")
    Image.fromarray((X % 5).astype(np.uint8)).save(tmp_path / "masks/5.png")

    def build(batch_size=2, workers=0, names=range(6), transforms=()):
        dataset = BaseSegDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path="images", seg_map_path="masks"),
            img_suffix=".png",
            metainfo=dict(classes=["a", "b", "c"]),
            test_mode=True,
            indices=list(names),
        )
        steps = [LoadImageFromFile(), *transforms, LoadAnnotations(), PackSegInputs()]
        dataset.pipeline = Compose(steps)
        return DataLoader(dataset, batch_size, num_workers=workers, collate_fn=pseudo_collate)

    return build


RULES = LabelRules(3, frozenset([255]))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_samples_are_left_out_and_listed(workers, loader_of):
    loader = loader_of(batch_size=3, workers=workers)
    guard_loading(loader, RULES, skip=True)
    for _ in range(2):  # a second guard changes nothing
        batches = list(loader)
        names = [[s.img_path[-5:] for s in batch["data_samples"]] for batch in batches]
        assert names == [["0.png", "2.png"], ["4.png"]]
        assert [len(batch["inputs"]) for batch in batches] == [2, 1]
        skipped = [(s.image[-5:], s.reason) for batch in batches for s in batch[SKIPPED]]
        assert [name for name, _ in skipped] == ["1.png", "3.png", "5.png"]
        for (_, reason), words in zip(skipped, ["truncated", "colours", "label 3, 4"], strict=True):
            assert words in reason
        guard_loading(loader, RULES, skip=True)


def test_a_batch_of_bad_samples_alone_is_empty(loader_of):
    loader = loader_of(names=[1, 3])
    guard_loading(loader, RULES, skip=True)
    (batch,) = loader
    assert batch["inputs"] == batch["data_samples"] == []
    assert len(batch[SKIPPED]) == 2


@pytest.mark.parametrize(
    ("workers", "name", "words"),
    [(0, 1, "truncated"), (0, 3, "colours"), (0, 5, "the label 3"), (1, 3, "colours")],
)
def test_otherwise_the_first_bad_sample_stops(workers, name, words, loader_of):
    loader = loader_of(workers=workers, names=[0, name])
    guard_loading(loader, RULES)
    with pytest.raises(BadSampleError, match=words):
        list(loader)


def test_masks_are_not_judged_where_nothing_is_scored(loader_of):
    loader = loader_of(names=[5])
    guard_loading(loader, None)
    assert len(list(loader)) == 1


def test_a_mask_of_another_size_names_exif(loader_of, tmp_path):
    Image.fromarray((X % 3).T.astype(np.uint8)).save(tmp_path / "masks/0.png")
    loader = loader_of(names=[0])
    guard_loading(loader, RULES)
    with pytest.raises(BadSampleError, match=r"0\.png: expected a mask of 83x131 .*131x83 .*EXIF"):
        list(loader)


def test_a_picture_that_cannot_be_resized(loader_of, tmp_path):
    Image.fromarray(COLOURS[:1].repeat(40, 1)).save(tmp_path / "images/0.png")
    loader = loader_of(names=[0], transforms=[Resize(scale=(2048, 336), keep_ratio=True)])
    guard_loading(loader, RULES)
    with pytest.raises(BadSampleError, match=r"0\.png: Resize cannot use this file of 1x5240 pix"):
        list(loader)


def test_other_loading_is_guarded_too():
    class LoadFromElsewhere:
        def __call__(self, data):
            raise RuntimeError("no such\n  tape")

    class Rotate:
        def __call__(self, data):
            raise ZeroDivisionError

    sample = dict(img_path="a.png")
    with pytest.raises(BadSampleError, match=r"a\.png: LoadFromElsewhere .*\(no such tape\)"):
        GuardedPipeline([LoadFromElsewhere()])(sample)
    assert GuardedPipeline([LoadFromElsewhere()], skip=True)(sample).image == "a.png"
    with pytest.raises(InputError, match=r"Rotate fails at a\.png .ZeroDivisionError at test_load"):
        GuardedPipeline([Rotate()], skip=True)(sample)  # a mistake in code: no file is to blame


def test_settings_of_the_metric_that_would_fail_at_the_end():
    class Metric:
        metrics, ignore_index = ["mIoU"], 255

    assert LabelRules.of([Metric(), Metric()], 3) == RULES
    for name, value, words in (
        ("metrics", ["mIOU"], "test_evaluator.iou_metrics: 'mIOU' is unknown"),
        ("ignore_index", "255", "test_evaluator.ignore_index"),
    ):
        wrong = Metric()
        setattr(wrong, name, value)
        with pytest.raises(InputError, match=words):
            LabelRules.of([wrong], 3)
