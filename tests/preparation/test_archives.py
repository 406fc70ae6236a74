"""Archives: damage, members that lead outside, interrupted extraction."""

import io
import os
import re
import tarfile
import zipfile

import mini_datasets as mini
import pytest

from itaclip.data.preparation import sources
from itaclip.data.preparation.archives import open_members, relative_below
from itaclip.data.preparation.settings import Settings
from itaclip.data.preparation.sources import Part, find_folder, provide_folder
from itaclip.errors import InputError
from itaclip.runtime.download import Download
from itaclip.runtime.tool import run_tool

PART = Part("images/val", ("val2017",), r"\d+\.txt", Download("a.zip", how_to_get="ask"))
FILES = {f"top/val2017/{n}.txt": bytes([n]) * 1000 for n in range(5)}
TEXT = re.compile(r"\d+\.txt")


def settings(root, *raw):
    return Settings(data_root=root, raw=raw, may_download=False, say=lambda line: None)


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("val2017/1.txt", "1.txt"),
        ("a/b/val2017/c/1.txt", "c/1.txt"),
        ("a\\val2017\\1.txt", "1.txt"),
        ("aval2017/1.txt", None),
        ("val2017/1.png", None),
        ("__MACOSX/val2017/._1.txt", None),
        ("val2017", None),
    ],
)
def test_relative_below(path, relative):
    assert relative_below(path, ("val2017",), TEXT) == relative


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_members_of_each_kind(tmp_path, name):
    mini.write_files(tmp_path, {**FILES, "top/train2017/7.txt": b"", "val2017/x.md": b""}, name)
    with open_members(tmp_path / name, PART.tails, TEXT) as members:
        assert {str(m.relative): m.open().read() for m in members} == {
            f"{n}.txt": bytes([n]) * 1000 for n in range(5)
        }


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("member", ["val2017/../../9.txt", "val2017/c:/9.txt"])
def test_members_that_lead_outside_are_refused(tmp_path, name, member):
    mini.write_files(tmp_path, {**FILES, member: b"bad"}, name)
    with (
        pytest.raises(InputError, match="leads outside"),
        open_members(tmp_path / name, PART.tails, TEXT),
    ):
        pass


def test_links_in_tar_files_are_left_out(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("val2017/1.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        info = tarfile.TarInfo("val2017/2.txt")
        info.size = 1
        file.addfile(info, io.BytesIO(b"2"))
    with open_members(tmp_path / "a.tar", PART.tails, TEXT) as members:
        assert [m.path for m in members] == ["val2017/2.txt"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_truncated_archives_are_reported(tmp_path, name):
    mini.write_files(tmp_path, FILES, name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=f"{re.escape(name)}: this archive is damaged"):
        extract_from(tmp_path, name)


def extract_from(root, name):
    part = Part(PART.folder, PART.tails, PART.pattern, Download(name, how_to_get="ask"))
    return provide_folder(settings(root / "data", root / name), root / "data/tree", part)


def test_a_flipped_byte_is_found_and_finished_files_stay(tmp_path):
    mini.write_files(tmp_path, FILES, "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        offset = file.infolist()[3].header_offset
    data[offset + 200] ^= 1
    good = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        extract_from(tmp_path, "a.zip")
    tree = tmp_path / "data/tree"
    assert not (tree / "images/val").exists()  # not taken for finished
    assert sorted(os.listdir(tree / "images/val.part")) == ["0.txt", "1.txt", "2.txt"]
    assert find_folder(settings(tmp_path / "data"), tree, PART) is None
    # With a good archive it goes on, and keeps what it has.
    before = (tree / "images/val.part/1.txt").stat().st_mtime_ns
    (tmp_path / "a.zip").write_bytes(good)
    extract_from(tmp_path, "a.zip")
    assert sorted(os.listdir(tree / "images")) == ["val"]
    assert (tree / "images/val/1.txt").stat().st_mtime_ns == before
    assert (tree / "images/val/4.txt").read_bytes() == FILES["top/val2017/4.txt"]


def test_ctrl_c_while_extracting(tmp_path, monkeypatch):
    mini.write_files(tmp_path, FILES, "a.zip")
    copy, calls = sources.shutil.copyfileobj, []

    def interrupted(source, target, length):
        calls.append(target.name)
        if len(calls) == 3:
            target.write(b"half")
            raise KeyboardInterrupt
        copy(source, target, length)

    monkeypatch.setattr(sources.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract_from(tmp_path, "a.zip")
    part = tmp_path / "data/tree/images/val.part"
    assert sorted(os.listdir(part)) == ["0.txt", "1.txt"]  # the half-written one is gone
    monkeypatch.undo()
    extract_from(tmp_path, "a.zip")
    assert mini.snapshot(tmp_path / "data/tree/images/val").keys() == {f"{n}.txt" for n in range(5)}


def test_interruption_while_files_are_moved_into_place(tmp_path):
    mini.write_files(tmp_path, FILES, "a.zip")
    tree = tmp_path / "data/tree"
    moved = {"images/val/0.txt": FILES["top/val2017/0.txt"]}
    mini.write_files(tree, {**moved, "images/val.part/1.txt": FILES["top/val2017/1.txt"]}, None)
    folder = extract_from(tmp_path, "a.zip")
    assert sorted(os.listdir(folder)) == [f"{n}.txt" for n in range(5)]
    assert os.listdir(tree / "images") == ["val"]


def test_an_archive_under_another_name_is_recognised(tmp_path):
    mini.write_files(tmp_path, FILES, "renamed.zip")
    mini.write_files(tmp_path, {"x/1.txt": b""}, "other.zip")
    found = settings(tmp_path / "data", tmp_path / "other.zip", tmp_path / "renamed.zip")
    folder = provide_folder(found, tmp_path / "data/tree", PART)
    assert len(os.listdir(folder)) == 5


def test_an_archive_without_the_files_is_reported(tmp_path):
    mini.write_files(tmp_path, {"x/1.txt": b""}, "a.zip")
    with pytest.raises(InputError, match=r"a.zip: expected files in val2017, but there are"):
        extract_from(tmp_path, "a.zip")


def test_wanted_files_are_completed_from_the_raw_tree_by_links(tmp_path):
    raw = mini.write_files(tmp_path / "raw", FILES, None)
    tree = tmp_path / "data/tree"
    mini.write_files(tree, {"images/val/0.txt": b"mine"}, None)
    wanted = ["0.txt", "1.txt", "4.txt"]
    folder = provide_folder(settings(tmp_path / "data", raw), tree, PART, wanted)
    assert sorted(os.listdir(folder)) == wanted
    assert (folder / "0.txt").read_bytes() == b"mine"
    assert (folder / "4.txt").is_symlink()


def test_a_link_to_a_place_that_is_gone_is_made_anew(tmp_path):
    tree = tmp_path / "data/tree"
    (tree / "images").mkdir(parents=True)
    (tree / "images/val").symlink_to(tmp_path / "gone")
    raw = mini.write_files(tmp_path / "raw", FILES, None)
    folder = provide_folder(settings(tmp_path / "data", raw), tree, PART)
    assert len(os.listdir(folder)) == 5


def test_an_archive_that_grows_beyond_measure_is_refused_before_it_is_unpacked(tmp_path):
    for name in ("a.zip", "a.tar.gz"):
        if name == "a.tar.gz":
            mini.write_files(tmp_path, {"val2017/1.txt": bytes(60_000_000)}, name)
        else:
            with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr("val2017/1.txt", bytes(60_000_000))
        assert (tmp_path / name).stat().st_size < 100_000
        with pytest.raises(InputError, match=rf"{name}: its .* kB claim to hold 60.0 MB"):
            provide_folder(settings(tmp_path / "data", tmp_path / name), tmp_path / "data", PART)
        assert not list((tmp_path / "data").rglob("*.txt"))


def test_room_is_looked_for_before_anything_is_unpacked(tmp_path, monkeypatch):
    from itaclip.runtime import download

    mini.write_files(tmp_path, FILES, "a.zip")
    usage = download.shutil.disk_usage(tmp_path)._replace(free=4999)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"5.0 kB are needed, but only 5.0 kB are free"):
        provide_folder(settings(tmp_path / "data", tmp_path / "a.zip"), tmp_path / "data", PART)
    assert not list((tmp_path / "data").rglob("*.txt"))


def test_names_that_a_terminal_would_obey_are_refused_and_shown_escaped(tmp_path, capsys):
    part = Part("images/val", ("val2017",), r".*\.txt", Download("a.zip", how_to_get="ask"))
    mini.write_files(tmp_path, {"val2017/\x1b]0;owned\x07.txt": b"1"}, "a.zip")

    def unpack():
        provide_folder(settings(tmp_path / "data", tmp_path / "a.zip"), tmp_path / "data", part)

    assert run_tool(unpack) == 2
    error = capsys.readouterr().err
    assert r"\x1b]0;owned\x07.txt' has invisible characters in its name" in error
    assert "\x1b" not in error
    (tmp_path / "\x1b[2J.zip").write_bytes(b"no archive")

    def open_it():
        with open_members(tmp_path / "\x1b[2J.zip", PART.tails, TEXT):
            pass

    assert run_tool(open_it) == 2
    assert r"/\x1b[2J.zip: this archive is damaged" in capsys.readouterr().err
