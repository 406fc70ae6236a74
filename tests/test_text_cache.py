"""The text cache under damage, full disks and locked folders: said once, and the run goes on."""

import errno
import os

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itaclip.runtime import files, text_cache
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
@pytest.mark.parametrize("step", ["replace", "save", "create"])
def test_a_disk_that_takes_nothing_is_said_once(step, code, cache, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    owner, name = {
        "replace": (files.os, "replace"),
        "save": (safetensors.torch, "save"),
        "create": (files, "_create"),
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


@pytest.mark.skipif(os.name != "posix", reason="users and modes")
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770])
def test_nothing_is_taken_from_where_others_may_write(mode, cache, capsys):
    planted = torch.ones(3, 5)
    cache.store(KEY, planted)
    os.chmod(cache.folder, mode)
    assert cache.load(KEY, (3, 5)) is None
    cache.store(OTHER, FEATURES)
    assert not entry(cache, OTHER).exists()
    message = capsys.readouterr().err
    assert "may be written by others" in message and message.count("\n") == 1
    os.chmod(cache.folder, 0o700)
    os.chmod(entry(cache), 0o666)
    assert cache.load(KEY, (3, 5)) is None
    assert "the entry" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="users and modes")
def test_entries_of_another_user_are_not_taken(cache, monkeypatch, capsys):
    monkeypatch.setattr(text_cache.os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:  # what root owns is trusted
        os.chown(entry(cache), 12345, -1)
    assert cache.load(KEY, (3, 5)) is None
    assert "belongs to another user" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="users and modes")
def test_folder_and_files_are_private_to_the_user(cache):
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    assert entry(cache).stat().st_mode & 0o777 == 0o600
