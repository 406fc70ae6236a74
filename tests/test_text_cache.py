"""The text cache under damage, full disks and locked folders: said once, and the run goes on."""

import errno
import os

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itaclip.runtime import text_cache
from itaclip.runtime.text_cache import TextCache

KEY, OTHER = "k" * 64, "o" * 64
FEATURES = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cache(tmp_path):
    cache = TextCache(tmp_path)
    cache.store(KEY, FEATURES)
    return cache


def entry(cache, key=KEY):
    return cache.folder / f"{key}.safetensors"


def test_what_was_stored_is_loaded(cache):
    assert torch.equal(cache.load(KEY, (3, 5)), FEATURES)
    assert cache.load(OTHER, (3, 5)) is None


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_is_noticed(at, bit, cut, cache):
    cache.store(KEY, FEATURES)
    content = bytearray(entry(cache).read_bytes())
    index = int(at * len(content))
    if cut:
        del content[index:]
    else:
        content[index] ^= 1 << bit
    entry(cache).write_bytes(content)
    found = cache.load(KEY, (3, 5))
    assert found is None or torch.equal(found, FEATURES)  # a bit of unused padding may have changed


def test_an_entry_of_another_vocabulary_is_not_taken(cache, capsys):
    os.replace(entry(cache), entry(cache, OTHER))
    assert cache.load(OTHER, (3, 5)) is None
    assert "it belongs to other texts" in capsys.readouterr().err
    assert not entry(cache, OTHER).exists()


@pytest.mark.parametrize(
    "tensors",
    [
        {"features": FEATURES[:2]},
        {"features": FEATURES.half()},
        {"features": FEATURES.clone().fill_(torch.nan)},
        {"other": FEATURES},
    ],
)
def test_other_content_is_not_taken(tensors, cache, capsys):
    safetensors.torch.save_file(
        {name: value.contiguous() for name, value in tensors.items()}, entry(cache), {"key": KEY}
    )
    assert cache.load(KEY, (3, 5)) is None
    assert capsys.readouterr().err.count("damaged") == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("step", ["replace", "save", "mkstemp"])
def test_a_disk_that_takes_nothing_is_said_once(step, code, cache, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    owner, name = {
        "replace": (text_cache.os, "replace"),
        "save": (safetensors.torch, "save_file"),
        "mkstemp": (text_cache.tempfile, "mkstemp"),
    }[step]
    monkeypatch.setattr(owner, name, fail)
    for _ in range(3):
        cache.store(OTHER, FEATURES)
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "the next start encodes them again" in message
    assert os.strerror(code) in message
    assert not entry(cache, OTHER).exists()
    assert not list(cache.folder.glob("*.part"))
    assert torch.equal(cache.load(KEY, (3, 5)), FEATURES)


def test_folders_in_the_place_of_files(tmp_path, capsys):
    cache = TextCache(tmp_path)
    entry(cache).mkdir(parents=True)
    assert cache.load(KEY, (3, 5)) is None
    cache.store(KEY, FEATURES)
    assert "text cache" in capsys.readouterr().err
    assert entry(cache).is_dir()


def test_an_entry_that_may_not_be_read_stays(cache, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(text_cache.safetensors, "safe_open", fail)
    for _ in range(2):
        assert cache.load(KEY, (3, 5)) is None
    assert capsys.readouterr().err.count("Permission denied") == 1
    assert entry(cache).exists()
