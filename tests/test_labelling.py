"""``itaclip label`` in one process: sources, parts, starting again, what is refused."""

import io
import json
import random
import signal
import struct
import sys
import tarfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bgr_image
from PIL import Image

import itaclip
from itaclip.commands import main
from itaclip.errors import InputError
from itaclip.labelling import places
from itaclip.labelling import run as run_module
from itaclip.labelling.labeller import Labeller
from itaclip.labelling.parts import Parts
from itaclip.labelling.places import Place
from itaclip.labelling.read import read_shard
from itaclip.labelling.source import find_source
from itaclip.labelling.weights import put_together, take_apart
from itaclip.runtime.tool import run_tool

pa = pytest.importorskip("pyarrow", reason="extra ray")
pq = pytest.importorskip("pyarrow.parquet")

CLASSES = "sky; sea, ocean; boat"
SIZES = ((40, 50), (41, 70), (64, 48), (40, 50), (90, 52), (43, 47), (55, 55))


def png(number):
    picture = bgr_image(*SIZES[number], number).permute(1, 2, 0).numpy()
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Seven pictures, some in a folder, and a damaged one."""
    (tmp_path / "photos/in").mkdir(parents=True)
    for number in range(len(SIZES)):
        place = "in/" if number > 4 else ""
        (tmp_path / f"photos/{place}p{number}.png").write_bytes(png(number))
    (tmp_path / "photos/bad.png").write_bytes(png(0)[:200])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def quick_load(model, **options):
    """As ``itaclip.load``, at the least cost and once."""
    return itaclip.load(model, **{"image_engineering_weight": None, "pamr": None} | options)


@pytest.fixture
def label(capsys, tiny_clip_path, monkeypatch, request):
    """Runs the command: (exit code, stdout, stderr)."""
    if request.function is not test_rows_equal_what_segment_gives:
        monkeypatch.setattr("itaclip.labelling.job.load", quick_load)

    def start(source, out, *options):
        given = ["--model", tiny_clip_path, "--short-side", "64", "--classes", CLASSES]
        given += ["--engine", "local", "--threads", "1", "--device", "cpu", "--shard-size", "3"]
        given += ["--stride", "64"]
        try:
            code = run_tool(
                lambda: main(["label", str(source), "--out", str(out), *given, *options])
            )
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return start


def rows_of(out):
    return [row for path in sorted(Path(out).glob("part-*.parquet")) for row in table(path)]


def table(path):
    return pq.ParquetFile(path).read().to_pylist()


def json_lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def labels_of(row):
    return np.asarray(Image.open(io.BytesIO(row["labels"])))


def content(out):
    files = [p for p in Path(out).glob("part-*/**/*") if p.is_file()]
    files += [p for p in Path(out).glob("part-*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


# ---- results ------------------------------------------------------------------------------------


def test_rows_equal_what_segment_gives(label, folder, tiny_clip_path):
    code, out, err = label("photos", "out", "--max-result-side", "60")
    assert code == 1 and "7 pictures labelled -> out" in out
    assert "1 of 8 pictures have no labels" in err
    model = itaclip.load(tiny_clip_path, short_side=64, stride=64, device="cpu", max_result_side=60)
    rows = {row["key"]: row for row in rows_of("out")}
    assert list(rows) == ["bad.png", "in/p5.png", "in/p6.png", *(f"p{i}.png" for i in range(5))]
    assert "damaged" in rows["bad.png"]["error"] and rows["bad.png"]["labels"] is None
    for key in ("in/p5.png", "p1.png", "p4.png"):
        expected, row = model.segment(f"photos/{key}", CLASSES), rows[key]
        assert row["error"] is None and (row["height"], row["width"]) == expected.labels.shape
        assert (labels_of(row) == expected.labels).all()
        expected.save_mask("mask.png")
        assert (
            Image.open("mask.png").getpalette()
            == Image.open(io.BytesIO(row["labels"])).getpalette()
        )
        if max(expected.labels.shape) > 60:
            continue  # scores are averaged where they are made
        found = expected.as_dict()["found"]
        assert [(f["name"], f["pixels"], f["area"]) for f in row["found"]] == [
            (f["name"], f["pixels"], f["area"]) for f in found
        ]
        assert np.allclose(
            [f["score"] for f in row["found"]], [f["score"] for f in found], atol=2e-4
        )
        best = np.sort(expected.scores, axis=-1)
        uncertainty = 1 - (best[..., -1] - best[..., -2]).mean()
        assert abs(row["uncertainty"] - uncertainty) < 1e-4


def test_a_folder_of_pngs_says_the_same(label, folder):
    label("photos", "out")
    code, _, _ = label("photos", "pngs", "--format", "png")
    assert code == 1
    lines = [line for path in sorted(Path("pngs").glob("*.jsonl")) for line in json_lines(path)]
    for line, row in zip(lines, rows_of("out"), strict=True):
        if row["labels"] is not None:
            assert line["labels"].endswith(f"{line['key']}.png")
            assert (Path("pngs") / line.pop("labels")).read_bytes() == row.pop("labels")
        assert line == row


def test_run_lengths_are_the_masks(label, folder):
    mask = pytest.importorskip("pycocotools.mask")
    label("photos/p1.png", "out")
    label("photos/p1.png", "rle", "--labels", "rle")
    (row,), (coded,) = rows_of("out"), rows_of("rle")
    assert coded["labels"] is None and len(coded["found"]) == len(row["found"])
    for found in coded["found"]:
        decoded = mask.decode({"size": [coded["height"], coded["width"]], "counts": found["rle"]})
        assert (decoded == (labels_of(row) == found["index"])).all()


# ---- sources ------------------------------------------------------------------------------------


def write_sources(folder):
    """The same seven pictures in every kind of source."""
    files = [folder / f"photos/{'in/' if n > 4 else ''}p{n}.png" for n in range(len(SIZES))]
    (folder / "photos/bad.png").unlink()
    data = [path.read_bytes() for path in files]
    (folder / "list.txt").write_text("\n".join(str(p.relative_to(folder)) for p in files) + "\n")
    structs = [{"bytes": content, "path": "x"} for content in data]
    for name, column in (
        ("bytes", {"image": data}),
        ("struct", {"n": list(range(7)), "photo": structs}),
        ("paths", {"uri": [str(p) for p in files]}),
        ("urls", {"uri": [p.as_uri() for p in files]}),
    ):
        pq.write_table(pa.table(column), folder / f"{name}.parquet", row_group_size=2)
    for suffix, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(folder / f"web.{suffix}", mode) as tar:
            for number, content in enumerate(data):
                for name, part in ((f"{number}.json", b"{}"), (f"{number}.png", content)):
                    member = tarfile.TarInfo(name)
                    member.size = len(part)
                    tar.addfile(member, io.BytesIO(part))
    return data


@pytest.mark.parametrize(
    "given",
    ["photos", "photos/**/*.png", "list.txt", "bytes.parquet", "struct.parquet", "paths.parquet",
     "urls.parquet", "web.tar", "web.tgz", "file:{}/photos", "file:{}/photos/*/p*.png",
     "file:{}/web.tar", "memory://itaclip/photos"],
)  # fmt: skip
def test_every_source_gives_the_same_pictures(folder, given):
    data = write_sources(folder)
    if given.startswith("memory"):
        fsspec = pytest.importorskip("fsspec")
        fsspec.filesystem("memory").put(str(folder / "photos"), "/itaclip/photos", recursive=True)
    source = find_source(given.format(f"//{folder}"), 3)
    rows = [row for shard in source.shards for row in read_shard(shard)]
    assert all(row["error"] is None for row in rows), rows
    expected = data[5:] if "*/" in given and "**" not in given else data
    assert sorted(row["image"] for row in rows) == sorted(expected)
    assert len({row["key"] for row in rows}) == len(rows)
    assert [row["last"] for row in rows].count(True) == len(source.shards)
    assert source.pictures in (None, len(expected))
    for shard in source.shards:
        assert shard.kind == "tar" or shard.count <= 3


def test_rows_of_parquet_shards_are_those_of_the_file(folder):
    write_sources(folder)
    table = pa.table({"id": [f"n{i}" for i in range(7)], "jpg": [png(i) for i in range(7)]})
    pq.write_table(table, "keys.parquet", row_group_size=4)
    for size in (1, 2, 3, 5, 9):
        source = find_source("keys.parquet", size, key_column="id")
        rows = [row for shard in source.shards for row in read_shard(shard)]
        assert [row["key"] for row in rows] == table["id"].to_pylist()
        assert [row["image"] for row in rows] == table["jpg"].to_pylist()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [("nowhere", "no such file or folder"), ("empty", "nothing to label"),
     ("mixed", "side by side"), ("http://a.b/c.tar", "nothing is fetched from the web"),
     ("no.parquet", "no column of pictures"), ("text.parquet", "cannot be read as Parquet"),
     ("none.txt", "no such file"), ("empty.txt", "the list is empty"),
     ("xyz://a/b", "no file system of this kind")],
)  # fmt: skip
def test_what_is_no_source_is_said(label, tmp_path, monkeypatch, given, sentence):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("mixed").mkdir()
    Path("mixed/a.png").write_bytes(b"")
    Path("mixed/a.tar").write_bytes(b"")
    pq.write_table(pa.table({"n": [1]}), "no.parquet")
    Path("text.parquet").write_text("text")
    Path("empty.txt").write_text("\n\n")
    code, _, err = label(given, "out")
    assert code == 2 and sentence in err
    assert err.strip().count("\n") <= 1 and not Path("out").exists()


def test_damaged_sources_become_rows(label, folder):
    write_sources(folder)
    data = Path("web.tar").read_bytes()
    Path("cut.tar").write_bytes(data[: len(data) // 2 + 300])
    Path("list.txt").write_text("photos/p0.png\nphotos/gone.png\nphotos\n/dev/zero\n")
    pq.write_table(pa.table({"image": [png(0), None, b"no picture"]}), "rows.parquet")
    for given, good, sentences in (
        ("cut.tar", 4, ["the archive is damaged or incomplete from here on"]),
        ("list.txt", 1, ["no such file", "is a folder", "is a device"]),
        ("rows.parquet", 1, ["the cell is empty", "no picture that can be read"]),
    ):
        out = f"out-{given}"
        code, _, _ = label(given, out)
        errors = [row["error"] for row in rows_of(out)]
        assert code == 1 and errors.count(None) == good
        for sentence in sentences:
            assert sum(sentence in (error or "") for error in errors) == 1, errors


def test_an_outage_of_the_store_is_no_bad_picture(label, folder, monkeypatch):
    """It ends the run; rows for good would come of it otherwise."""
    write_sources(folder)
    seen = []

    def opened(place):
        seen.append(place)
        if len(seen) > 4:
            raise OSError(
                "When reading information for key 'a' in bucket 'b': AWS Error NETWORK_CONNECTION"
            )
        return places.opened_before(place)

    monkeypatch.setattr(places, "opened_before", places.opened, raising=False)
    monkeypatch.setattr(places, "opened", opened)
    monkeypatch.setattr("itaclip.labelling.read._AT_ONCE", 1)
    code, _, err = label(f"file://{folder}/photos", "out")
    assert code == 2 and "the object store does not answer" in err
    monkeypatch.setattr(places, "opened", places.opened_before)
    assert label(f"file://{folder}/photos", "out")[0] == 0
    assert all(row["error"] is None for row in rows_of("out")) and len(rows_of("out")) == 7


def test_a_picture_of_too_many_pixels_is_refused_before_decoding(label, folder):
    head = struct.pack(">II5B", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"0" * 99)), (b"IEND", b"")]
    data = [
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    ]
    Path("photos/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))
    assert label("photos", "out")[0] == 1
    assert "20000" in rows_of("out")[0]["error"]


def test_names_that_lead_elsewhere_stay_in_the_part(label, folder):
    names = ["../../up.png", "/etc/up.png", "a.png", "A.PNG", "a.png/b.png", "a.png.png/c.png",
             "..", "d/../e.png", "ü/日本.png", "x" * 300 + ".png", "a.png",
             "c:\\f\n.png"]  # fmt: skip
    with tarfile.open("evil.tar", "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name if name != ".." else "../...png")
            member.size = len(png(0))
            tar.addfile(member, io.BytesIO(png(0)))
    code, _, err = label("evil.tar", "out", "--format", "png")
    assert code == 0, err
    lines = json_lines("out/part-000000.jsonl")
    places = {(Path("out") / line["labels"]).resolve() for line in lines}
    assert len(places) == len(lines) == len(names) and all(p.is_file() for p in places)
    assert all(p.is_relative_to(folder / "out/part-000000") for p in places)
    assert len([p for p in Path("out").rglob("*.png") if p.is_file()]) == len(names)
    assert (folder / "out/part-000000/evil.tar/ü/日本.png.png") in places


# ---- starting again -----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("kind", ["parquet", "png"])
def test_a_stopped_run_goes_on_and_gives_the_same(label, folder, monkeypatch, number, code, kind):
    label("photos", "whole", "--format", kind)
    segment, seen = Labeller.segment, []

    def stopping(self, row):
        seen.append(row["key"])
        if len(seen) == 5:
            signal.raise_signal(number)
        return segment(self, row)

    monkeypatch.setattr(Labeller, "segment", stopping)
    assert label("photos", "out", "--format", kind)[0] == code
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert not manifest["complete"] and manifest["shards_done"] == 1
    first = Path("out") / manifest["parts"][0][0]
    written = first.stat().st_mtime_ns
    assert label("photos", "out", "--format", kind)[0] == 1
    assert first.stat().st_mtime_ns == written
    assert len(seen) == 5 + 5  # the second part anew, the first not
    assert content("out") == content("whole")
    manifest, whole = (json.loads(Path(f"{o}/manifest.json").read_text()) for o in ("out", "whole"))
    assert manifest["complete"] and len(manifest["starts"]) == 2
    assert {k: v for k, v in manifest.items() if k != "starts"} == {
        k: v for k, v in whole.items() if k != "starts"
    }
    code, out, _ = label("photos", "out", "--format", kind)
    assert code == 1 and "nothing is left to do" in out and len(seen) == 10


def test_parts_that_the_manifest_has_not_seen_count(label, folder):
    label("photos", "out")
    manifest = json.loads(Path("out/manifest.json").read_text())
    Path("out/manifest.json").write_text(
        json.dumps(manifest | {"parts": [], "failures": [], "complete": False})
    )
    Path("out/part-000001.parquet").unlink()
    before = content("out")
    assert label("photos", "out")[0] == 1
    after = content("out")
    assert {name: after[name] for name in before} == before and len(after) == 3
    again = json.loads(Path("out/manifest.json").read_text())
    assert {k: v for k, v in again.items() if k != "starts"} == {
        k: v for k, v in manifest.items() if k != "starts"
    }


@pytest.mark.parametrize(
    ("changed", "named"),
    [(["--classes", "sky; sea, ocean; ship"], "words.classes"), (["--stride", "8"], "settings."),
     (["--labels", "rle"], "settings.labels"), (["--shard-size", "4"], "settings.shard_size"),
     (["--recipe", "clip"], "settings.recipe"), (["--prob-thd", "0.4", "--background", "wall"],
     "words.background")],
)  # fmt: skip
def test_a_changed_setting_is_refused(label, folder, changed, named):
    label("photos", "out")
    before = content("out")
    code, _, err = label("photos", "out", *changed)
    assert code == 2 and "holds a run of other settings" in err and named in err
    assert content("out") == before


def test_a_changed_source_is_refused(label, folder):
    label("photos", "out")
    Path("photos/new.png").write_bytes(png(0))
    code, _, err = label("photos", "out")
    assert code == 2 and "source.pictures was 8, now 9" in err


def test_too_many_errors_end_the_run(label, folder):
    for number in range(4):
        Path(f"photos/q{number}.png").write_bytes(b"none")
    code, _, err = label("photos", "out", "--max-errors", "2")
    assert code == 2 and "more than --max-errors 2" in err
    kept = content("out")
    assert len(kept) == 3
    assert label("photos", "out", "--max-errors", "1")[0] == 2
    assert label("photos", "out", "--max-errors", "5")[0] == 1
    assert kept.items() <= content("out").items() and len(content("out")) == 4


def test_nothing_usable_is_code_2(label, folder):
    code, _, _ = label("photos/bad.png", "out")
    assert code == 2 and rows_of("out")[0]["labels"] is None


def test_places_that_are_refused(label, folder):
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    Path("file").write_text("mine")
    for out, sentence in (
        ("full", "holds notes.txt"),
        ("file", "this is a file"),
        ("photos/out", "lies within photos"),
        ("photos", "lies within photos"),
    ):
        code, _, err = label("photos", out)
        assert code == 2 and sentence in err
    label("photos", "out")
    with open("out/part-000000.parquet", "ab") as file:
        file.write(b"x")
    code, _, err = label("photos", "out")
    assert code == 2 and "part-000000.parquet" in err and "delete it" in err
    Path("out/manifest.json").write_text("{}")
    code, _, err = label("photos", "out")
    assert code == 2 and "no manifest" in err


def test_two_runs_at_once_are_refused(label, folder):
    with run_module._alone(Place("out")):
        code, _, err = label("photos", "out")
    assert code == 2 and "another run is writing" in err
    assert label("photos", "out")[0] == 1


# ---- parts --------------------------------------------------------------------------------------


def test_rows_in_any_order_and_doubled_give_the_same_part(tmp_path):
    rows = [
        dict(shard=shard, index=i, last=i == 9, key=f"{shard}-{i}", height=1, width=1, found=[],
             labels=bytes([i]), uncertainty=0.5, error=None)
        for shard in range(3) for i in range(10)
    ]  # fmt: skip
    made = []
    for seed in range(4):
        dice, counted = random.Random(seed), []
        parts = Parts(Place(str(tmp_path / str(seed))), "parquet", counted.append)
        shuffled = rows + dice.sample(rows, 15) if seed else list(rows)
        if seed:
            dice.shuffle(shuffled)
        done = [parts.add(row) for row in shuffled]
        assert sorted(d[0] for d in done if d) == [0, 1, 2] and len(counted) == 30
        made.append(content(tmp_path / str(seed)))
    assert all(m == made[0] for m in made) and len(made[0]) == 3


def test_a_part_misses_no_row(tmp_path):
    parts = Parts(Place(str(tmp_path)), "parquet", lambda row: None)
    row = dict(key="k", height=1, width=1, found=[], labels=b"", uncertainty=0.0, error=None)
    for index in (0, 2):
        assert parts.add(dict(shard=0, index=index, last=index == 2) | row) is None
    assert not content(tmp_path)
    assert parts.add(dict(shard=0, index=1, last=False) | row)[1].pictures == 3


def test_an_empty_tar_is_an_empty_part(label, folder):
    tarfile.open("none.tar", "w").close()
    code, out, _ = label("none.tar", "out")
    assert code == 0 and "0 pictures labelled" in out and rows_of("out") == []


# ---- model --------------------------------------------------------------------------------------


def test_a_model_in_parts_shares_memory_and_gives_the_same(tiny_clip_path):
    pytest.importorskip("ray")
    model = itaclip.load(tiny_clip_path, short_side=None, device="cpu")
    segmentor = model.segmentor_for(CLASSES).without_text_tower()
    skeleton, arrays = take_apart(segmentor)
    weights = sum(p.nbytes for p in segmentor.image_encoder.parameters())
    assert len(skeleton) < 100_000 < weights <= sum(a.nbytes for a in arrays) < 1.1 * weights
    for array in arrays:
        array.flags.writeable = False
    again = put_together(skeleton, arrays)
    weight = again.image_encoder.visual.conv1.weight
    assert any(weight.data_ptr() == array.ctypes.data for array in arrays)
    inputs = torch.randn(3, 80, 64, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        segmentor.segment(inputs, (80, 64)), again.segment(inputs, (80, 64)), strict=True
    ):
        assert torch.equal(mine, theirs)


# ---- what is missing ----------------------------------------------------------------------------


def test_without_pyarrow_and_ray(label, folder, monkeypatch):
    label("photos", "expected", "--format", "png")
    for package in ("pyarrow", "ray", "fsspec"):
        monkeypatch.setitem(sys.modules, package, None)
    assert label("photos", "out", "--format", "png", "--engine", "auto")[0] == 1
    assert content("out") == content("expected")
    for options, sentence in (
        ([], "--format parquet (png takes nothing) takes pyarrow: pip install 'itaclip[ray]'"),
        (["--format", "png", "--engine", "ray"], "Ray is not installed: pip install"),
        (["--format", "png", "--engine", "auto", "--address", "auto"], "Ray is not installed"),
    ):
        code, _, err = label("photos", "no", *options)
        assert code == 2 and sentence in err
    with pytest.raises(InputError, match="pip install"):
        itaclip.label(None, CLASSES)
