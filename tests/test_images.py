"""Pictures of every kind become 8-bit RGB, or one sentence."""

import mmcv
import numpy as np
import pytest
import torch
from conftest import bgr_image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from itaclip import InputError
from itaclip.predict.images import find_images, read_image, resize, resized_shape

RGB = bgr_image(17, 23).permute(1, 2, 0).numpy()


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def test_a_plain_file_is_read_exactly(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    for source in (path, str(path), Image.open(path), RGB):
        assert np.array_equal(read_image(source), RGB)
    (tmp_path / "named.wrong").write_bytes(path.read_bytes())
    assert np.array_equal(read_image(tmp_path / "named.wrong"), RGB)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, RGB[::-1, ::-1]), (6, np.rot90(RGB, -1)), (8, np.rot90(RGB)), (2, RGB[:, ::-1])],
)
def test_the_camera_s_orientation_is_applied(orientation, turned, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(RGB), exif=exif)
    assert np.array_equal(read_image(path), turned)
    assert np.array_equal(read_image(Image.open(path)), turned)


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.zeros(RGB.shape[:2], np.uint8)
    alpha[:, 5:] = 255
    alpha[:, 9:] = 51  # a fifth
    expected = RGB.astype(float)
    expected[:, :5] = 255
    expected[:, 9:] = 255 + 0.2 * (expected[:, 9:] - 255)
    rgba = np.dstack([RGB, alpha])
    path = saved(tmp_path / "a.png", Image.fromarray(rgba))
    for source in (path, Image.fromarray(rgba), rgba, rgba.astype(np.float32) / 255):
        assert np.abs(read_image(source) - expected).max() <= 0.51
    grey = np.dstack([RGB[..., 0], alpha])
    for source in (grey, Image.fromarray(grey, "LA")):
        assert (read_image(source)[:, :5] == 255).all()
        assert np.array_equal(read_image(source)[:, 5:9, 1], RGB[:, 5:9, 0])


def test_palettes_are_looked_up(tmp_path):
    indices = (np.arange(17 * 23) % 3).astype(np.uint8).reshape(17, 23)
    picture = Image.frombytes("P", (23, 17), indices.tobytes())
    colours = np.array([[10, 20, 30], [200, 100, 0], [5, 250, 125]], np.uint8)
    picture.putpalette(colours.tobytes())
    assert np.array_equal(read_image(saved(tmp_path / "a.png", picture)), colours[indices])
    path = saved(tmp_path / "t.png", picture, transparency=1)
    assert (read_image(path)[indices == 1] == 255).all()
    assert np.array_equal(read_image(path)[indices == 2], colours[indices][indices == 2])
    assert np.array_equal(read_image(saved(tmp_path / "a.gif", picture)), colours[indices])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight(suffix, tmp_path):
    ramp = np.linspace(0, 65535, 17 * 23).round().astype(np.uint16).reshape(17, 23)
    expected = np.repeat((ramp / 257).round()[..., None], 3, axis=-1)
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(ramp))
    for source in (path, ramp, ramp[..., None]):
        assert np.array_equal(read_image(source), expected)


@pytest.mark.parametrize("mode", ["1", "L", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode):
    picture = Image.fromarray(RGB).convert(mode)
    assert np.array_equal(read_image(picture), np.asarray(picture.convert("RGB")))


def test_arrays_of_other_types():
    grey = RGB[..., 0]
    three = np.repeat(grey[..., None], 3, axis=-1)
    for array in (grey, grey[..., None], grey / 255, (grey / 255).astype(np.float16)):
        assert np.abs(read_image(array).astype(int) - three).max() <= (array.dtype == np.float16)
    assert np.array_equal(read_image(grey > 99), np.where(three > 99, 255, 0))
    assert np.array_equal(read_image(RGB[::2, ::-1]), RGB[::2, ::-1])
    assert read_image(np.zeros((1, 1), np.uint8)).shape == (1, 1, 3)
    assert (read_image(Image.fromarray((grey / 255).astype(np.float32))) == three).all()


def test_the_result_is_a_copy_to_write_into(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    read_image(path)[:] = 0


def broken(folder, kind):
    path = folder / f"{kind}.png"
    whole = saved(folder / "whole.png", Image.fromarray(bgr_image(90, 90).permute(1, 2, 0).numpy()))
    if kind == "truncated":
        path.write_bytes(whole.read_bytes()[:-9000])
    elif kind == "jpeg":
        saved(folder / "w.jpg", Image.open(whole))
        path.write_bytes((folder / "w.jpg").read_bytes()[:1500])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no picture")
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", ["damaged or incomplete", "again"]),
        ("jpeg", ["damaged or incomplete", "again"]),
        ("empty", ["no picture", "save it"]),
        ("text", ["no picture", "save it"]),
        ("folder", ["this is a folder"]),
        ("missing", ["no such file"]),
    ],
)
def test_files_that_are_no_pictures(kind, words, tmp_path):
    path = broken(tmp_path, kind)
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(error.value).startswith(str(path))
    assert all(word in str(error.value) for word in words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((3, 17, 23), np.uint8), "transpose(1, 2, 0)"),
        (np.zeros((17, 23, 5), np.uint8), "(17, 23, 5)"),
        (np.zeros((0, 23, 3), np.uint8), "empty"),
        (np.zeros(17, np.uint8), "height x width"),
        (np.full((5, 5, 3), 1.5), "from 1.5 to 1.5"),
        (np.full((5, 5, 3), np.nan), "floats from 0 to 1"),
        (np.full((5, 5, 3), -0.1), "floats from 0 to 1"),
        (np.zeros((5, 5, 3), np.int64), "astype(np.uint8)"),
        (Image.fromarray(np.full((5, 5), 70000, np.int32)), "8 or 16 bits"),
        (Image.fromarray(np.full((5, 5), 7, np.float32)), "floats from 0 to 1"),
        (torch.zeros(5, 5, 3), "got Tensor"),
        (None, "got NoneType"),
    ],
)
def test_values_that_mean_nothing(source, words):
    with pytest.raises(InputError) as error:
        read_image(source)
    assert words in str(error.value)
    assert str(error.value).startswith("image: ")


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.fromarray(RGB))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="too large"):
        read_image(path)


# ---- sizes --------------------------------------------------------------------------------------


@given(st.integers(1, 9000), st.integers(1, 9000), st.integers(1, 800), st.integers(800, 4000))
def test_the_size_is_that_of_mmcv(height, width, short, long):
    expected = mmcv.rescale_size((width, height), (long, short))
    found = resized_shape((height, width), short, long)
    assert found == tuple(max(1, side) for side in expected[::-1])


def test_a_limit_alone_never_enlarges():
    assert resized_shape((40, 50), None, 100) == (40, 50)
    assert resized_shape((40, 200), None, 100) == (20, 100)
    assert resized_shape((40, 50), None, None) == (40, 50)


@pytest.mark.parametrize("size", [(31, 47), (113, 59), (61, 43)])
def test_resizing_is_that_of_the_evaluations(size):
    image = bgr_image(*size).permute(1, 2, 0).numpy()
    expected = mmcv.imrescale(image, (2048, 37))
    assert np.array_equal(resize(image, 37, 2048), expected)


def test_strong_shrinking_sees_every_pixel():
    image = np.zeros((400, 400, 3), np.uint8)
    image[::8] = 240  # an eighth of the rows
    assert np.abs(resize(image, 50, 2048).astype(int) - 30).max() <= 1


# ---- which files --------------------------------------------------------------------------------


def test_folders_patterns_and_files(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt", "in/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG"]
    assert [p.name for p in find_images(tmp_path / "**" / "*.[wp]*")] == ["a.png", "c.webp"]
    assert find_images(tmp_path / "none.png") == [tmp_path / "none.png"]
    (tmp_path / "x[1].png").write_bytes(b"")
    assert find_images(tmp_path / "x[1].png") == [tmp_path / "x[1].png"]


def test_nothing_found(tmp_path):
    with pytest.raises(InputError, match="holds no picture"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="no file fits"):
        find_images(tmp_path / "*.jpg")
