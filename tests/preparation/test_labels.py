"""Look-up tables and run-length decoding, against values written by hand."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_datasets import CITYSCAPES_CLASSES, CITYSCAPES_IDS, encode_rle, label_png
from PIL import Image

from itaclip.data.preparation import labels
from itaclip.data.preparation.rle import decode_rle, decompress_counts
from itaclip.errors import InputError


def test_coco_tables_at_every_gap():
    raw = [0, 10, 12, 24, 26, 27, 30, 43, 45, 64, 66, 69, 71, 81, 83, 89, 91, 181, 255]
    stuff = [0, 10, 11, 23, 24, 25, 26, 39, 40, 59, 60, 61, 62, 72, 73, 79, 80, 170, 255]
    thing = [1, 11, 12, 24, 25, 26, 27, 40, 41, 60, 61, 62, 63, 73, 74, 80, 0, 0, 0]
    assert labels.coco_stuff_table()[raw].tolist() == stuff
    assert labels.coco_object_table()[raw].tolist() == thing
    assert labels.coco_object_from_stuff_table()[stuff].tolist() == thing


@pytest.mark.parametrize("raw", [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182, 200, 254])
@pytest.mark.parametrize("table", [labels.coco_stuff_table(), labels.coco_object_table()])
def test_coco_refuses_ids_that_do_not_exist(table, raw):
    with pytest.raises(InputError, match=rf"x[.]png: label values {raw} are not defined"):
        labels.apply_table(table, np.array([[0, raw]], np.uint8), "x.png")


def test_every_class_is_reached_once():
    stuff = labels.coco_stuff_table()
    assert sorted(stuff[stuff != labels.POISON]) == [*range(171), 255]
    things = labels.coco_object_table()[:90]
    assert sorted(things[things != labels.POISON]) == list(range(1, 81))


def test_cityscapes_table():
    assert labels.cityscapes_table()[CITYSCAPES_IDS].tolist() == CITYSCAPES_CLASSES
    assert (labels.cityscapes_table()[34:] == labels.POISON).all()


def test_context_tables():
    assert len(labels.CONTEXT_RAW_IDS) == len(set(labels.CONTEXT_RAW_IDS)) == 60
    assert list(labels.CONTEXT_RAW_IDS) == sorted(labels.CONTEXT_RAW_IDS)
    ids = [0, 2, 9, 18, 158, 258, 284, 415, 427, 454, 458]
    classes = [0, 1, 2, 3, 26, 34, 37, 51, 55, 58, 59]
    assert labels.context_table()[ids].tolist() == classes
    assert labels.context_mat_table()[[*ids, 300, 459]].tolist() == [*classes, 0, 0]


def test_the_message_names_what_is_allowed_and_found():
    raw = np.array([[0, 34, 99]], np.uint8)
    with pytest.raises(InputError, match=r"34, 99 .*\(expected 0-33\)"):
        labels.apply_table(labels.cityscapes_table(), raw, "x.png")
    with pytest.raises(InputError, match=r"x[.]png: label values 460"):
        labels.apply_table(labels.context_table(), np.array([[460]]), "x.png")


def test_masks_keep_palette_indices_and_other_modes_are_refused(tmp_path):
    mask = np.array([[0, 1, 20], [255, 15, 0]], np.uint8)
    path = tmp_path / "mask.png"
    path.write_bytes(label_png(mask, [9] * 768))
    assert labels.read_labels(path).tolist() == mask.tolist()
    Image.fromarray(mask.astype(np.uint16)).save(path)
    with pytest.raises(InputError, match="mode I"):
        labels.read_labels(path)
    Image.fromarray(np.stack([mask] * 3, -1)).save(path)
    with pytest.raises(InputError, match="mode RGB"):
        labels.read_labels(path)
    path.write_bytes(label_png(np.arange(256, dtype=np.uint8).reshape(16, 16))[:50])
    with pytest.raises(InputError, match="cannot be read"):
        labels.read_labels(path)


def test_literal_run_lengths():
    # Short runs: 3 zeros, 2 ones, 4 zeros, in a mask of 3 rows and 3 columns.
    assert decompress_counts("324").tolist() == [3, 2, 4]
    assert decode_rle(3, 3, "324").tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    # A run over 31 takes two characters: 100 = 4 + 3 * 32.
    assert decompress_counts("T30").tolist() == [100, 0]
    # From the fourth number on, differences to the one before last: 5, 6, 7, 6 - 4, 7 + 1.
    assert decompress_counts("567L1").tolist() == [5, 6, 7, 2, 8]
    # 16 as one group would read as -16: it needs a second one.
    assert decompress_counts("`0").tolist() == [16]
    assert decode_rle(2, 2, [4]).sum() == 0
    assert decode_rle(2, 2, "04").all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 41), st.integers(1, 37), st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_decoding_undoes_encoding(height, width, seed, run):
    rng = np.random.default_rng(seed)
    flips = rng.random(height * width) < 1 / run
    mask = (np.cumsum(flips) % 2).astype(bool).reshape(width, height).T
    assert np.array_equal(decode_rle(height, width, encode_rle(mask)), mask)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("33", "cover 6 pixels"),
        ("3\x20", "character outside"),
        ("T", "ends inside a number"),
        ([5, -1], "negative"),
        ("", "cover 0 pixels"),
    ],
)
def test_malformed_run_lengths_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        decode_rle(2, 2, counts)


def test_pipes_pointers_and_bombs_are_no_masks(tmp_path):
    pipe, pointer = tmp_path / "p.png", tmp_path / "l.png"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match=r"p\.png: cannot be read .it is a pipe"):
        labels.read_labels(pipe)
    pointer.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    with pytest.raises(InputError, match=r"l\.png: is a pointer of Git LFS"):
        labels.read_labels(pointer)
