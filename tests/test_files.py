"""Small files are read with care, results appear as a whole; one exit policy for every door."""

import os
import re
import sys
from pathlib import Path

import pytest

from itaclip.errors import BadSampleError, InputError
from itaclip.runtime import files
from itaclip.runtime.files import (
    NotWrittenError,
    atomic_write,
    open_regular,
    printable,
    read_text,
    sha256_of,
    write_whole,
)
from itaclip.runtime.tool import ProcessLostError, Stopped, run_tool


@pytest.fixture(autouse=True)
def forget_tidied(monkeypatch):
    monkeypatch.setattr(files, "_tidied", set())
    monkeypatch.setattr(sys, "argv", ["tool"])
    monkeypatch.delenv("ITACLIP_DEBUG", raising=False)


# ---- reading ------------------------------------------------------------------------------------


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def sparse(path):  # a terabyte by its size, nothing on the disk
    with open(path, "wb") as file:
        file.truncate(1 << 40)


def link_to_device(path):
    path.symlink_to("/dev/zero")


def lfs_pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 351\n")


UNREADABLE = {
    "missing": (lambda path: None, "no such file"),
    "pipe": (pipe, "is a pipe, but expected a file"),
    "folder": (folder, "is a folder, but expected a file"),
    "device": (link_to_device, "is a device, but expected a file"),
    "sparse": (sparse, "has 1,099,511.6 MB"),
    "latin-1": (lambda path: path.write_bytes(b"sky\ncaf\xe9\n"), ":2: expected UTF-8 text"),
    "UTF-16": (lambda path: path.write_bytes("sky".encode("utf-16")), "looks like UTF-16"),
    "Git LFS": (lfs_pointer, "git lfs pull"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html>\n<html>"), "is a web page"),
}


@pytest.mark.parametrize(("make", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_text_file_is_refused_in_a_sentence(tmp_path, make, words):
    make(tmp_path / "names.txt")
    with pytest.raises(InputError, match=re.escape(words)) as error:
        read_text(tmp_path / "names.txt")
    assert str(error.value).startswith(str(tmp_path / "names.txt"))


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_names_that_no_file_can_have(name):
    with pytest.raises(InputError, match="cannot be read"):
        open_regular(name)


def test_text_is_read_without_byte_order_mark_and_with_any_line_ends(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfsky\r\ncat\rdog\n")
    assert read_text(tmp_path / "names.txt") == "sky\ncat\ndog\n"


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")  # FIPS 180-2


# ---- writing ------------------------------------------------------------------------------------


def test_a_result_appears_as_a_whole_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.txt"
    write_whole(target, "old")

    def fail():
        with atomic_write(target) as aside:
            aside.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["a.txt"]


def test_no_name_can_be_foreseen_and_no_link_is_followed(tmp_path):
    victim, target = tmp_path / "victim", tmp_path / "a.txt"
    victim.write_text("mine")
    target.symlink_to(victim)
    names = set()
    for _ in range(2):
        with atomic_write(target) as aside:
            names.add(aside.name)
            aside.write_text("new")
    assert victim.read_text() == "mine"
    assert target.read_text() == "new" and not target.is_symlink()
    assert len(names) == 2


def test_a_private_file_is_the_users_alone(tmp_path):
    mask = os.umask(0o022)
    try:
        modes = [write_whole(tmp_path / "a", b"", p).stat().st_mode & 0o777 for p in (True, False)]
    finally:
        os.umask(mask)
    assert modes == [0o600, 0o644]


def test_left_overs_of_killed_writers_are_tidied_and_nothing_else(tmp_path, monkeypatch):
    left = tmp_path / ".a.txt.0123456789abcdef.part"
    others = [tmp_path / ".a.txt.1234.part", tmp_path / "b.0123456789abcdef.part"]
    for path in [left, *others]:
        path.write_text("half")
    with atomic_write(tmp_path / "a.txt") as aside:
        monkeypatch.setattr(files, "_tidied", set())  # as another process that starts now
        write_whole(tmp_path / "b.txt", "whole")
        assert aside.exists()  # its writer lives
    assert not left.exists()
    assert all(path.exists() for path in others)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "a.txt", tmp_path):
        with pytest.raises(NotWrittenError, match=f"^{re.escape(str(target))}: cannot be written"):
            write_whole(target, "new")


def test_names_as_long_as_the_system_allows(tmp_path):
    assert write_whole(tmp_path / ("ü" * 127), "new").read_text() == "new"


# ---- ends ---------------------------------------------------------------------------------------


def raising(error, handled=None, cause=None):
    def main():
        try:
            if handled is not None:
                raise handled
        except Exception:
            raise error  # noqa: B904
        raise error from cause

    return main


class RayTaskError(RuntimeError):
    pass


LOADER = "Caught InputError in DataLoader worker process 0.\nOriginal Traceback (most …):\n  File\n"
ENDS = [
    (InputError("a.txt: is bad."), 2, "error: a.txt: is bad."),
    (BadSampleError("a.png: is bad.", "a.png"), 2, "error: a.png: is bad."),
    (InputError("class `X` in itaclip/x.py: a.txt: is bad."), 2, "error: a.txt: is bad."),
    (InputError(f"{LOADER}itaclip.errors.InputError: a: is bad."), 2, "error: a: is bad."),
    (FileNotFoundError(2, "No such file", "a.txt"), 2, "error: a.txt: No such file; check"),
    (ModuleNotFoundError("No", name="mmseg.apis"), 2, "error: mmseg is not installed, and this"),
    (MemoryError(), 2, "error: there is not enough memory (MemoryError)"),
    (Stopped(15), 143, "stopped by SIGTERM"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ProcessLostError("process 1 is lost"), 1, "error: process 1 is lost"),
]


@pytest.mark.parametrize(("error", "code", "message"), ENDS, ids=lambda value: str(value)[:12])
def test_every_end_has_its_code_and_its_sentence(capsys, error, code, message):
    assert run_tool(raising(error)) == code
    printed = capsys.readouterr().err
    assert printed.startswith(message) and printed.count("\n") == 1


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_main_function_may_return_its_code(code):
    assert run_tool(lambda: code) == code


def test_the_developers_errors_keep_their_traceback():
    """Also where an error of the user's kind was handled on the way."""
    for handled in (FileNotFoundError(2, "No such file", "a"), InputError("a: is bad.")):
        with pytest.raises(KeyError):
            run_tool(raising(KeyError("word"), handled))
    with pytest.raises(KeyError):  # not a known wrapper
        run_tool(raising(KeyError("word"), cause=InputError("a: is bad.")))


def test_known_wrappers_are_looked_into(capsys):
    assert run_tool(raising(RayTaskError("long"), cause=InputError("a.txt: is bad."))) == 2
    assert capsys.readouterr().err == "error: a.txt: is bad.\n"
    with pytest.raises(RayTaskError):
        run_tool(raising(RayTaskError("long"), cause=KeyError("word")))


@pytest.mark.parametrize("how", ["option", "variable"])
def test_traceback_on_demand(capsys, monkeypatch, how):
    monkeypatch.setenv("ITACLIP_DEBUG", str(int(how == "variable")))
    monkeypatch.setattr(sys, "argv", ["tool", "a", *["--traceback"] * (how == "option")])
    assert run_tool(raising(InputError("a.txt: is bad."))) == 2
    assert sys.argv == ["tool", "a"]
    printed = capsys.readouterr().err
    assert "Traceback" in printed and Path(__file__).name in printed
    assert printed.endswith("error: a.txt: is bad.\n")


def test_one_message_of_a_spread_run(capsys):
    error = InputError("a.txt: is bad.")
    error.silent = True
    assert run_tool(raising(error)) == 2
    assert capsys.readouterr().err == ""


def test_the_exit_policy_needs_nothing_heavy():
    for name in ("files", "tool"):
        text = (Path(files.__file__).parent / f"{name}.py").read_text()
        assert not re.search(r"^\s*(import|from) (torch|numpy|mmengine|mmseg|cv2)", text, re.M)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain.png", "plain.png"),
        ("фото 日本.png", "фото 日本.png"),
        ("\x1b]0;owned\x07.png", r"\x1b]0;owned\x07.png"),
        ("a\rb\x9b2J", r"a\rb\x9b2J"),
        ("turned\u202egnp.exe", r"turned\u202egnp.exe"),
        (os.fsdecode(b"latin\xe9.png"), r"latin\udce9.png"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_a_terminal_obeys_no_name(name, shown):
    assert printable(name) == shown
    printable(name).encode()
