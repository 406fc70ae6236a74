"""Pictures that would hang, blow up or darken: each ends in a sentence, at once, in little memory.

Memory is what Python's objects and numpy's arrays take at most, as tracemalloc counts it.
"""

import os
import time
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image

from itaclip import InputError
from itaclip.data.loading import LoadCheckedImage
from itaclip.predict import images
from itaclip.predict.images import find_images, read_image

GREY = np.linspace(0, 255, 40 * 50).astype(np.uint8).reshape(40, 50)


def pipe(folder):
    os.mkfifo(folder / "a.png")
    return folder / "a.png"


def endless(folder):
    os.symlink("/dev/zero", folder / "a.png")
    return folder / "a.png"


def huge(mode, **options):
    """A file of some kilobytes with 100 million pixels and a column more."""

    def make(folder):
        Image.new(mode, (10001, 10000)).save(folder / "a.png", **options)
        return folder / "a.png"

    return make


def claims(width, height):
    """A PNG whose head claims a size that its body has not."""

    def make(folder):
        import struct
        import zlib

        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
        chunks = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
        (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks + b"\0\0\0\0IEND\xaeB`\x82")
        return folder / "a.png"

    return make


def text(content):
    def make(folder):
        (folder / "a.png").write_bytes(content)
        return folder / "a.png"

    return make


HOSTILE = {
    "a pipe": (pipe, "it is a pipe, but expected a file"),
    "an endless device": (endless, "it is a device, but expected a file"),
    "transparent, too large": (claims(10001, 10000), "more than 100000000"),
    "grey, too large": (huge("1"), "more than 100000000"),
    "a claim of 2**62 pixels": (claims((1 << 31) - 1, (1 << 31) - 1), "more than 100000000"),
    "a claim without a body": (claims(9000, 9000), "damaged|no picture"),
    "no pixels": (claims(0, 5), "damaged|no picture"),
    "PostScript": (text(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "no picture"),
    "nothing": (text(b""), "no picture"),
    "one byte": (text(b"\x89"), "no picture"),
    "a head alone": (text(b"\x89PNG\r\n\x1a\n"), "damaged|no picture"),
    "an archive": (text(b"PK\x03\x04" + bytes(99)), "no picture"),
    "a web page": (text(b"<!doctype html><html></html>"), "no picture"),
    "a vector drawing": (text(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "no picture"),
    "a zeroed file": (text(bytes(5000)), "no picture|damaged"),
}
SPELLED = [
    ("http://127.0.0.1:9/a.jpg", "nothing is fetched from the web"),
    ("https://example.invalid/a.jpg", "nothing is fetched from the web"),
    ("file:///a.png", "nothing is fetched from the web"),
    ("data://x", "nothing is fetched from the web"),
    ("a\0b.png", "cannot be read"),
    ("x" * 5000, "cannot be read"),
    ("none.png", "no such file"),
    (".", "this is a folder"),
    ("", "this is a folder"),
]


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("door", ["api", "evaluation"])
def test_a_hostile_file_ends_in_a_sentence(kind, door, tmp_path):
    make, words = HOSTILE[kind]
    path = make(tmp_path)
    start = time.monotonic()
    tracemalloc.start()
    try:
        if door == "api":
            with pytest.raises(InputError, match=words) as error:
                read_image(path)
        else:
            with pytest.raises(InputError) as error:
                LoadCheckedImage().transform({"img_path": str(path)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert time.monotonic() - start < 5 and peak < 50e6


@pytest.mark.parametrize(("path", "words"), SPELLED)
def test_a_hostile_path_ends_in_a_sentence(path, words):
    with pytest.raises(InputError, match=words) as error:
        read_image(path)
    assert "\n" not in str(error.value)


def test_an_address_is_no_pattern():
    with pytest.raises(InputError, match="nothing is fetched from the web"):
        find_images("http://127.0.0.1:9/*.jpg")


def test_the_limit_of_the_process_stays_as_it_is(tmp_path, monkeypatch):
    """Neither door touches Pillow's limit, which belongs to all threads."""
    Image.fromarray(GREY).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # so that Pillow itself would refuse
    image = LoadCheckedImage().transform({"img_path": str(tmp_path / "a.png")})["img"]
    assert image.shape == (40, 50, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_transparent_picture_takes_little_more_than_itself(tmp_path, monkeypatch):
    """Pixels are laid on white in strips: no float of the whole picture."""
    monkeypatch.setattr(images, "_STRIP", 1 << 16)
    Image.new("RGBA", (2000, 2000), (10, 20, 30, 128)).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", np.full((2000, 2000, 4), (10, 20, 30, 128), np.uint8)):
        tracemalloc.start()
        pixels = read_image(source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert tuple(pixels[1234, 7]) == (132, 137, 142)
        assert peak < 1.5 * pixels.nbytes


# ---- more than eight bits -----------------------------------------------------------------------


def wide(kind, bits, folder):
    """The grey scene with values of some bits, in a picture of 16: (what is read, exact grey)."""
    values = GREY.astype(np.uint16) << (bits - 8) if bits < 16 else GREY.astype(np.uint16) * 257
    expected = (values.astype(float) * 255 / ((1 << bits) - 1)).round().astype(np.uint8)
    path = str(folder / f"a{'.tif' if 'TIFF' in kind else '.png'}")
    if kind == "array":
        return values, expected
    if kind == "mode I":
        return Image.fromarray(values.astype(np.int32)), expected
    if "RGBA" in kind:
        cv2.imwrite(path, np.dstack([values, values, values, np.full_like(values, 65535)]))
    elif "RGB" in kind:
        cv2.imwrite(path, np.dstack([values, values // 2, values]))
    else:
        cv2.imwrite(path, values)
    return path, expected


KINDS = ("array", "mode I", "PNG", "TIFF", "RGB PNG", "RGB TIFF", "RGBA PNG")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_in_a_wide_picture_are_asked_for(kind, bits, tmp_path):
    source, expected = wide(kind, bits, tmp_path)
    with pytest.raises(InputError, match=rf"as those of {bits} bits.*say bits={bits} ") as error:
        read_image(source)
    assert str(error.value).startswith(source if isinstance(source, str) else "image")
    if kind != "RGBA PNG":  # whose alpha has all 16 bits
        pixels = read_image(source, bits=bits)
        assert np.array_equal(pixels[..., 0], expected)
        assert np.array_equal(pixels[..., 2], expected)
    dark = read_image(source, bits=16)
    assert dark.max() <= 64  # as it was, since it is said


@pytest.mark.parametrize("kind", KINDS)
def test_all_sixteen_bits_are_taken_as_they_are(kind, tmp_path):
    source, expected = wide(kind, 16, tmp_path)
    assert np.array_equal(read_image(source)[..., 0], expected)
    with pytest.raises(InputError, match="from 0 to 4095, but they go to 65535"):
        read_image(source, bits=12)
    assert np.array_equal(read_image(np.zeros((3, 4), np.uint16)), np.zeros((3, 4, 3), np.uint8))


@pytest.mark.parametrize("bits", [7, 17, True, 12.0, "12"])
def test_bits_that_mean_nothing(bits):
    with pytest.raises(InputError, match="bits: expected None or an integer from 8 to 16"):
        read_image(GREY, bits=bits)


@pytest.mark.parametrize("kind", ["PNG", "RGB PNG", "RGB TIFF"])
def test_an_evaluation_asks_likewise(kind, tmp_path):
    path, expected = wide(kind, 12, tmp_path)
    with pytest.raises(InputError, match=r"LoadCheckedImage', bits=12"):
        LoadCheckedImage().transform({"img_path": path})
    image = LoadCheckedImage(bits=12).transform({"img_path": path})["img"]
    assert np.array_equal(image[..., 0], expected)
    with pytest.raises(InputError, match=r"LoadCheckedImage.bits: expected"):
        LoadCheckedImage(bits=3)
