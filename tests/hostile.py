"""Hostile inputs through the program's commands: a row each. ``tools/bad_input.py`` prints them.

``eval.py``'s own rows are in ``test_hostile_input.py``.
"""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SKY = ["--classes", "sky; sea", "--model", "storybook-tiny"]
SEGMENT = ["segment", "a.png", *SKY]
CONFIG = """
custom_imports = dict(imports=["itaclip"])
test_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_root="data",
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        img_suffix=".png",
        seg_map_suffix=".png",
        metainfo=dict(classes=["sky", "cat", "dog"]),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations"),
            dict(type="PackSegInputs"),
        ],
    ),
)
"""


@dataclass(frozen=True)
class Row:
    """One command line that must end in a sentence.

    Attributes:
        door: the command line's words.
        name: of the input.
        make: changes the folder in which the command runs.
        words: part of the message.
        code: exit code.
    """

    door: list[str]
    name: str
    make: Callable[[Path], object]
    words: str
    code: int = 2

    @property
    def id(self) -> str:
        return f"{self.door[0]}: {self.name}"


def prepare(folder: Path) -> None:
    """A picture, a data set of one sample, and its config."""
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
    for path in ("a.png", "data/images/0.png"):
        picture.save(folder / path)
    Image.new("L", (50, 40), 1).save(folder / "data/masks/0.png")
    (folder / "cfg.py").write_text(CONFIG)
    (folder / "names.txt").write_text("sky\nsea\n")


def run(row: Row) -> tuple[int, str]:
    """Runs a row in the current folder, in this process: exit code and message."""
    from itaclip.__main__ import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            code = main(row.door)
        except SystemExit as stop:
            code = stop.code
    return int(code or 0), said.getvalue()


# ---- what is done to the folder -----------------------------------------------------------------


def nothing(folder: Path) -> None:
    pass


def holds(name: str, content: bytes) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return make


def pipe(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def device(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/dev/zero")

    return make


def sparse(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)

    return make


def empty_folder(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return make


def bomb(name: str, width: int = 60000, height: int = 60000) -> Callable[[Path], object]:
    """A PNG of under 1 kB that claims to have billions of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return holds(name, b"\x89PNG\r\n\x1a\n" + data)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 351\n"
HTML = b"<!DOCTYPE html>\n<html><body>404</body></html>"
JSON = b'{"format": 1}'


# ---- the table ----------------------------------------------------------------------------------


def _pictures(door: list[str]) -> list[Row]:
    """One picture that cannot be used, through a command that takes pictures."""
    return [
        Row(door, "no picture", lambda folder: (folder / "a.png").unlink(), "a.png"),
        Row(door, "empty picture", holds("a.png", b""), "a.png"),
        Row(door, "web page as picture", holds("a.png", HTML), "a.png"),
        Row(door, "LFS pointer as picture", holds("a.png", LFS), "a.png"),
        Row(door, "pipe as picture", pipe("a.png"), "a.png"),
        Row(door, "device as picture", device("a.png"), "a.png"),
        Row(door, "terabyte as picture", sparse("a.png"), "a.png"),
        Row(door, "pixel bomb", bomb("a.png"), "a.png"),
        Row(door, "half a picture", lambda f: os.truncate(f / "a.png", 300), "a.png"),
    ]


def _models(words: dict[str, tuple[Callable, str]]) -> list[Row]:
    return [
        Row(
            ["segment", "a.png", "--classes", "sky; sea", "--model", name], f"{name} as model", *row
        )
        for name, row in words.items()
    ]


CHECK = ["check", "--config", "cfg.py"]
EVAL = ["eval", "--config", "cfg.py"]
PREPARE = ["prepare", "voc21", "--no-download", "--data-root"]
ROWS = [
    *_pictures(SEGMENT),
    *_pictures(["inspect", "a.png", "--at", "5,5", *SKY[2:]]),
    *_models(
        {
            "none.pt": (nothing, "none.pt"),
            "lfs.pt": (holds("lfs.pt", LFS), "git lfs pull"),
            "page.pt": (holds("page.pt", HTML), "web page"),
            "empty.pt": (holds("empty.pt", b""), "empty.pt"),
            "zeros.pt": (holds("zeros.pt", bytes(5000)), "zeros.pt"),
            "pipe.pt": (pipe("pipe.pt"), "pipe.pt"),
            "device.pt": (device("device.pt"), "device.pt"),
            "folder": (empty_folder("folder"), "folder"),
            "head.safetensors": (holds("head.safetensors", b"\xff" * 64), "head.safetensors"),
            "ViT-B/17": (nothing, "ViT-B/17"),
        }
    ),
    Row(["segment", "https://example.org/a.png", *SKY], "an address", nothing, "example.org"),
    Row(["segment", "a\0b.png", *SKY], "a zero in the name", nothing, "zero byte"),
    Row(["segment", "x" * 5000, *SKY], "a name of 5000 letters", nothing, "xxx"),
    Row(["segment", "empty", *SKY], "an empty folder", empty_folder("empty"), "empty"),
    Row([*SEGMENT, "--out", "a.png"], "the picture as result", nothing, "replace"),
    Row([*SEGMENT, "--out", "b.xyz"], "unknown kind of result", nothing, "b.xyz"),
    Row([*SEGMENT, "--out", "cfg.py/b.png"], "result below a file", nothing, "cfg.py"),
    Row([*SEGMENT, "--mask", "m.jpg"], "labels as JPEG", nothing, r"m\.jpg|\.png"),
    Row([*SEGMENT, "--out", "b.png", "--mask", "b.png"], "one file twice", nothing, "b.png"),
    Row([*SEGMENT, "--opacity", "7"], "opacity 7", nothing, "opacity"),
    Row([*SEGMENT, "--opacity", "nan"], "opacity nan", nothing, "opacity"),
    Row([*SEGMENT, "--prob-thd", "2"], "threshold 2", nothing, "prob_thd|prob-thd"),
    Row([*SEGMENT, "--json", "x.txt"], "JSON as text", nothing, "json"),
    *(
        Row(["segment", "a.png", "--classes", classes, *SKY[2:]], name, make, words)
        for name, classes, make, words in (
            ("no words", "", nothing, "class"),
            ("separators alone", ";;;", nothing, "class|empty|word"),
            ("a word twice", "sky;sky", nothing, "sky"),
            ("a zero in a word", "s\0y;sea", nothing, "U.0000"),
            ("a word of 3000 letters", "sky;" + "x" * 3000, nothing, "3000 characters"),
        )
    ),
    *(
        Row(
            ["segment", "a.png", "--class-file", "names.txt", *SKY[2:]],
            f"{name} as names",
            make,
            words,
        )
        for name, make, words in (
            ("pipe", pipe("names.txt"), "names.txt"),
            ("device", device("names.txt"), "names.txt"),
            ("terabyte", sparse("names.txt"), "names.txt"),
            ("LFS pointer", holds("names.txt", LFS), "names.txt"),
            ("UTF-16", holds("names.txt", "sky".encode("utf-16")), "names.txt"),
        )
    ),
    Row(["check", "--config", "none.py"], "no config", nothing, "none.py"),
    Row(CHECK, "not Python", holds("cfg.py", b"x = (("), "cfg.py"),
    Row(CHECK, "bytes as config", holds("cfg.py", bytes(99)), "cfg.py"),
    Row(CHECK, "no data set", holds("cfg.py", b"x = 1"), "test_dataloader"),
    Row(["check", "--config", "data"], "folder as config", nothing, "data"),
    *(
        Row([*CHECK, "--workers", "0"], f"{name} as mask", make, "0.png", 1)
        for name, make in {
            "pipe": pipe("data/masks/0.png"),
            "web page": holds("data/masks/0.png", HTML),
            "pixel bomb": bomb("data/masks/0.png"),
            "device": device("data/masks/0.png"),
        }.items()
    ),
    Row(["prepare", "voc12"], "unknown benchmark", nothing, "voc12"),
    Row([*PREPARE, "d"], "nothing there", nothing, "VOC"),
    Row([*PREPARE, "a.png"], "file as root", nothing, "a"),
    Row(["eval", "--config", "none.py"], "no config", nothing, "none.py"),
    Row(["eval", "--config", "data"], "folder as config", nothing, "data"),
    Row(EVAL, "no model", nothing, "'model'"),
    Row([*EVAL, "--limit", "x"], "limit x", nothing, "'model'|limit"),
    Row(
        [*EVAL, "--cfg-options", "a"],
        "option without value",
        nothing,
        "KEY=",
    ),
    Row([*EVAL, "--cfg-options", "a=[("], "brackets", nothing, "cfg-options|model"),
    Row(["cache", "--clear", "x"], "a word too many", nothing, "unrecognized|invalid|usage"),
    Row(["nothing"], "unknown command", nothing, "invalid choice"),
]
