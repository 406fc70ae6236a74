"""The check of data sets: every problem once, and silence on prepared data."""

import time

import mini_datasets as mini
import numpy as np
import pytest
from PIL import Image

import itaclip  # noqa: F401  (registers the data sets)
from itaclip.data.check import build_dataset, check_cheap, check_places
from itaclip.data.coverage import peek_at_masks
from itaclip.data.mask_check import check_full
from itaclip.data.problems import Problem, format_problems, has_errors

PROJECT = mini.DATASETS_FOLDER.parent
PREFIX = dict(img_path="images", seg_map_path="masks")


def build(root, type="BaseSegDataset", classes=3, lazy_init=False, data_prefix=PREFIX, **options):
    if type == "BaseSegDataset":
        options["metainfo"] = dict(classes=[f"class {i}" for i in range(classes)])
    if "pipeline" in options:
        steps = [dict(type="LoadImageFromFile"), *options["pipeline"], dict(type="PackSegInputs")]
        options["pipeline"] = steps
    cfg = dict(type=type, data_root=str(root), data_prefix=dict(data_prefix))
    dataset = build_dataset({**cfg, **options})
    if not lazy_init:
        dataset.full_init()
    return dataset


@pytest.fixture
def folder(tmp_path):
    """Three images (14x10) with masks of the classes 0, 1, 2 and ignored pixels."""
    for name in "abc":
        files = {
            f"images/{name}.jpg": mini.photograph(14, 10),
            f"masks/{name}.png": mini.label_png(mini.bands(14, [0, 1, 2, 255, 0], 2)),
        }
        mini.write_files(tmp_path, files, None)
    return tmp_path


def full(dataset, **options):
    return [str(problem) for problem in check_full(dataset, **options)]


def cheap(dataset):
    return [str(problem) for problem in check_cheap(dataset)]


def assert_one(lines, *words):
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("lazy", [False, True])
def test_clean_data_is_silent(folder, lazy):
    dataset = build(folder, lazy_init=lazy)
    assert cheap(dataset) == full(dataset) == full(dataset, workers=2) == []


# ----------------------------------------------------------------------------------- cheap part


def test_missing_mask_and_the_like_named_one_beside_it(folder):
    (folder / "masks/b.png").rename(folder / "masks/b_labelTrainIds.png")
    lines = cheap(build(folder))
    assert lines[0].startswith(f"error: {folder}/masks/b.png: mask does not exist")
    assert "there is b_labelTrainIds.png: correct seg_map_suffix" in lines[0]
    assert_one(lines[1:], "warning: ", "no image belongs to this mask")


def test_missing_mask_folder(folder):
    dataset = build(folder, data_prefix=dict(img_path="images", seg_map_path="mask"))
    lines = cheap(dataset)
    assert len(lines) == 3
    assert "its folder is missing too: correct data_prefix.seg_map_path" in lines[0]


def test_mask_without_image(folder):
    (folder / "images/c.jpg").unlink()
    assert_one(cheap(build(folder)), "warning: ", "masks/c.png: no image belongs")


def test_no_images_says_what_is_there(folder):
    dataset = build(folder, img_suffix=".jpeg", lazy_init=True)
    assert_one(cheap(dataset), "no image ends in '.jpeg'", "3 files end in '.jpg'", "img_suffix")


def test_list_of_images(folder):
    (folder / "list.txt").write_text("a\r\n\nb\na\n\n")
    lines = cheap(build(folder, ann_file="list.txt"))
    assert [line.split("list.txt: ")[1].split(" and ")[0] for line in lines] == [
        "line 2 is blank",
        "line 4 repeats 'a' of line 1; remove one of them",
        "line 5 is blank",
    ]
    (folder / "list.txt").write_text("a.jpg\nz\n")
    lines = cheap(build(folder, ann_file="list.txt"))
    images = [line for line in lines if "image does not exist" in line]
    assert "without their suffix" in images[0]
    assert f"{folder}/images/z.jpg" in images[1]
    (folder / "list.txt").write_text("")
    assert_one(cheap(build(folder, ann_file="list.txt", lazy_init=True)), "lists no image")


@pytest.mark.filterwarnings("ignore:`reduce_zero_label`")
def test_reduce_zero_label_in_the_wrong_place(folder):
    pipeline = [dict(type="LoadAnnotations", reduce_zero_label=True)]
    assert_one(cheap(build(folder, pipeline=pipeline)), "set it on the data set only")
    assert cheap(build(folder, pipeline=pipeline, reduce_zero_label=True)) == []


def test_too_many_classes(folder):
    assert_one(cheap(build(folder, classes=256)), "256 classes", "at most 255")


def test_images_without_masks_are_a_data_set(folder):
    dataset = build(folder, data_prefix=dict(img_path="images"))
    assert cheap(dataset) == full(dataset) == []


def test_subset_is_checked_alone(folder):
    (folder / "masks/c.png").unlink()
    for lazy in (False, True):
        assert cheap(build(folder, indices=2, lazy_init=lazy)) == []
        assert len(cheap(build(folder, indices=[0, 2], lazy_init=lazy))) == 1


def test_concatenation(folder):
    (folder / "masks/c.png").unlink()
    part = dict(
        type="BaseSegDataset",
        data_root=str(folder),
        data_prefix=PREFIX,
        metainfo=dict(classes=["x", "y", "z"]),
    )
    dataset = build_dataset(dict(type="ConcatDataset", datasets=[part, part]))
    assert len(cheap(dataset)) == 2
    assert full(dataset) == []


def test_places_are_checked_before_building(folder):
    cfg = dict(
        type="PascalVOCDataset",
        data_root=str(folder),
        data_prefix=dict(img_path="images", seg_map_path="nowhere"),
        ann_file="val.txt",
    )
    lines = [str(problem) for problem in check_places(cfg)]
    assert lines == [
        f"error: {folder}/nowhere: expected a folder here (data_prefix.seg_map_path); run `python "
        "datasets/prepare.py voc21`, or correct data_root and data_prefix.seg_map_path in the "
        "config",
        f"error: {folder}/val.txt: expected a file here (ann_file); run `python "
        "datasets/prepare.py voc21`, or correct data_root and ann_file in the config",
    ]


def test_cheap_part_is_fast(tmp_path):
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        (tmp_path / kind).mkdir()
        for number in range(5000):
            (tmp_path / kind / f"{number:05d}{suffix}").touch()
    dataset = build(tmp_path, lazy_init=True)
    start = time.process_time()
    assert cheap(dataset) == []
    assert time.process_time() - start < 1


# ------------------------------------------------------------------------------------ full part


def test_labels_outside_the_classes(folder):
    (folder / "masks/b.png").write_bytes(mini.label_png(mini.bands(14, [3, 0, 200, 254, 255], 2)))
    lines = full(build(folder))
    assert_one(lines, "masks/b.png", "the label 3, 200, 254, but labels go from 0 to 2")
    assert_one(full(build(folder), workers=2), "masks/b.png")


def test_rgb_mask(folder):
    (folder / "masks/b.png").write_bytes(mini.photograph(14, 10, "PNG"))
    assert_one(full(build(folder)), "masks/b.png", "has colours (mode RGB)")


def test_wide_mask(folder):
    Image.fromarray(np.full((14, 10), 300, np.uint16)).save(folder / "masks/b.png")
    assert_one(
        full(build(folder)),
        "masks/b.png",
        "holds the value 300, but LoadAnnotations takes 0 to 255",
    )


def test_one_bit_and_jpeg_masks(folder):
    Image.fromarray(np.zeros((14, 10), bool)).save(folder / "masks/a.png")
    Image.fromarray(np.zeros((14, 10), np.uint8)).save(folder / "masks/b.png", format="JPEG")
    assert_one(full(build(folder)), "masks/b.png", "the mask is a JPEG, which blurs numbers")


def test_size_and_turned_images(folder):
    (folder / "masks/a.png").write_bytes(mini.label_png(mini.bands(13, [0], 10)))
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    with Image.open(folder / "images/b.jpg") as image:
        image.save(folder / "images/b.jpg", exif=exif)
    lines = full(build(folder))
    words = "expected a mask of {} pixels (height x width) like its image, but it has {}"
    assert f"masks/a.png: {words.format('14x10', '13x10')};" in lines[0]
    assert f"{words.format('10x14', '14x10')} (turned: EXIF's orientation" in lines[1]
    assert len(lines) == 2


@pytest.mark.parametrize("name", ["images/b.jpg", "masks/b.png"])
def test_truncated_files(folder, name):
    noise = np.random.default_rng(3).integers(0, 3, (14, 10)).astype(np.uint8)
    (folder / "masks/b.png").write_bytes(mini.label_png(noise))
    path = folder / name
    path.write_bytes(path.read_bytes()[:-50])
    assert_one(full(build(folder)), name, "cannot be read")
    path.write_bytes(b"")
    assert_one(full(build(folder)), name, "cannot be read")


def test_reduce_zero_label(folder):
    """Raw 0 is ignored; 1, 2, 3 are the classes; 4 is none."""
    for name in "abc":
        mask = mini.bands(14, [0, 1, 2, 3, 255], 2)
        (folder / f"masks/{name}.png").write_bytes(mini.label_png(mask))
    assert full(build(folder, reduce_zero_label=True)) == []
    (folder / "masks/c.png").write_bytes(mini.label_png(mini.bands(14, [4], 10)))
    lines = full(build(folder, reduce_zero_label=True))
    assert_one(
        lines,
        "masks/c.png",
        "holds the label 3 after reduce_zero_label=True",
        "after reduce_zero_label=True",
    )


def test_reduce_zero_label_set_wrongly(folder):
    """With classes 0, 1, 2 it leaves class 2 without a pixel."""
    lines = full(build(folder, reduce_zero_label=True))
    assert_one(lines, "warning: ", "class 2 (class 2) occurs in no mask", "must be False")


def test_masks_of_two_values_are_warned_of(folder):
    """0 and 255, as tools for two classes write them: 255 is the ignored label."""
    for name in "abc":
        mask = mini.bands(14, [0, 255, 0, 255, 0], 2)
        (folder / f"masks/{name}.png").write_bytes(mini.label_png(mask))
    words = "take dict(type='LoadMappedAnnotations', mapping={0: 0, 255: 1}) in the pipeline"
    assert_one(full(build(folder, classes=2)), "warning: ", "class 1 (class 1) occurs in no", words)
    before_a_run = [str(problem) for problem in peek_at_masks(build(folder, classes=2))]
    assert_one(before_a_run, "warning: ", "hold 0 and 255 alone, and 255 is ignored", words)
    pipeline = [dict(type="LoadMappedAnnotations", mapping={0: 0, 255: 1})]
    dataset = build(folder, classes=2, pipeline=pipeline)
    assert full(dataset) == peek_at_masks(dataset) == []


def test_classes_in_no_mask_are_warned_of(folder):
    assert peek_at_masks(build(folder)) == []
    assert_one(full(build(folder, classes=4)), "warning: ", "class 3 (class 3) occurs in no mask")
    lines = full(build(folder, classes=9))
    assert_one(lines, "6 of 9 classes occur in no mask: 3 (class 3), 4", "metainfo.classes")
    for name in "abc":
        (folder / f"masks/{name}.png").write_bytes(mini.label_png(mini.bands(14, [255], 10)))
    assert_one(full(build(folder)), "no class occurs in any mask")


def test_settings_are_said_once(folder):
    pipeline = [dict(type="LoadMappedAnnotations", mapping={0: 0, 1: 1, 2: 2, 255: 255})]
    dataset = build(folder, pipeline=pipeline, reduce_zero_label=True)
    assert_one(full(dataset), "reduce_zero_label=True", "say it in `mapping` alone")


def test_label_map_of_chosen_classes(tmp_path):
    raw, data = mini.make_voc(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["voc21"], raw, data)
    options = dict(
        type="PascalVOCDataset",
        data_prefix=dict(img_path="JPEGImages", seg_map_path="SegmentationClass"),
        ann_file="ImageSets/Segmentation/val.txt",
    )
    tree = data / "VOCdevkit/VOC2012"
    classes = ["background", "person", "aeroplane"]
    assert full(build(tree, metainfo=dict(classes=classes), **options)) == []
    mask = tree / "SegmentationClass/2007_000042.png"
    mask.write_bytes(mini.label_png(mini.bands(14, [21], 10)))
    assert_one(full(build(tree, metainfo=dict(classes=classes), **options)), "label 21")


def test_look_up_of_raw_labels(folder):
    for name in "abc":
        mask = mini.bands(14, [0, 7, 9, 9, 200], 2)
        (folder / f"masks/{name}.png").write_bytes(mini.label_png(mask))
    assert len(full(build(folder))) == 3
    pipeline = [dict(type="LoadMappedAnnotations", mapping={0: 0, 7: 1, 9: 2, 200: 255})]
    assert full(build(folder, pipeline=pipeline)) == []
    (folder / "masks/c.png").write_bytes(mini.label_png(mini.bands(14, [10], 10)))
    assert_one(full(build(folder, pipeline=pipeline)), "masks/c.png", "the raw value 10")


def test_look_up_of_the_pipeline_with_wide_masks(folder):
    """The project's own loader takes 16 bits, so that its data sets may hold any raw value."""
    for name in "abc":
        mask = np.tile(np.array([0, 7, 300, 300, 40000], np.uint16), (14, 2))
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
    mapping = {0: 0, 7: 1, 300: 2, 40000: 255}
    pipeline = [dict(type="LoadMappedAnnotations", mapping=mapping)]
    dataset = build(folder, pipeline=pipeline)
    assert cheap(dataset) == full(dataset) == []
    del mapping[300]
    pipeline = [dict(type="LoadMappedAnnotations", mapping=mapping)]
    lines = full(build(folder, pipeline=pipeline))
    assert len(lines) == 3
    assert "holds the raw value 300, which `mapping` does not list" in lines[0]
    pipeline = [dict(type="LoadMappedAnnotations", mapping=mapping, others=255)]
    assert_one(full(build(folder, pipeline=pipeline)), "warning: ", "class 2 (class 2) occurs in")
    wide = build(folder, classes=300, pipeline=pipeline)
    assert cheap(wide) == []


def test_many_problems_are_cut_short():
    problems = [Problem("error", f"{i}.png", "is wrong", "kind") for i in range(152)]
    problems.append(Problem("warning", "z", "look"))
    lines = format_problems(problems)
    assert len(lines) == 22
    assert lines[0] == "error: 0.png: is wrong"
    assert lines[20] == "error: … and 132 more of this kind"
    assert lines[21] == "warning: z: look"
    assert has_errors(problems)
    assert not has_errors(problems[-1:])


# --------------------------------------------------------------------------------- the benchmarks


@pytest.fixture
def prepared(mini_benchmarks):
    return mini_benchmarks.parent


def dataset_cfg(name):
    from mmengine import Config

    return Config.fromfile(PROJECT / f"configs/cfg_{name}.py").test_dataloader.dataset


@pytest.mark.parametrize("name", mini.NAMES)
def test_prepared_benchmarks_are_clean_but_small(name, prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    cfg = dataset_cfg(name)
    assert check_places(cfg) == []
    dataset = build_dataset(cfg)
    assert full(dataset) == []
    assert_one(cheap(dataset), "warning: ", "images instead of", "not comparable")


@pytest.mark.parametrize(
    ("name", "expected"), [("voc20", mini.VOC20_LABELS), ("ade20k", mini.ADE_LABELS)]
)
def test_what_the_evaluation_reads(name, expected, prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    dataset = build_dataset(dataset_cfg(name))
    for sample in dataset:
        stem = sample["data_samples"].img_path.rpartition("/")[2].removesuffix(".jpg")
        labels = sample["data_samples"].gt_sem_seg.data[0].numpy()
        assert labels.tolist() == expected[stem].tolist()


def run_check(*args):
    """Run the script in this process: starting another takes seconds."""
    import check

    return check.main([str(arg) for arg in args])


def test_command_line(prepared, tmp_path, monkeypatch, capsys):
    config = PROJECT / "configs/cfg_coco_object.py"
    monkeypatch.chdir(prepared)
    assert run_check("--config", config) == 0
    assert capsys.readouterr().out.endswith("checked everything: 0 errors, 1 warnings\n")

    raw = mini.make_coco(tmp_path / "raw")
    mini.prepare(["coco_stuff"], raw, tmp_path)
    assert run_check("--config", config, "--data-root", tmp_path / "coco_stuff164k") == 1
    output = capsys.readouterr().out
    assert "000000000139_instanceTrainIds.png: mask does not exist" in output
    assert "run `python datasets/prepare.py coco_object`" in output
    # The folder that `prepare --data-root` filled is the same place.
    assert run_check("--config", config, "--data-root", tmp_path) == 1
    assert capsys.readouterr().out == output


def test_command_line_reads_pixels_unless_cheap(prepared, tmp_path, capsys):
    config = PROJECT / "configs/cfg_ade20k.py"
    mini.prepare(["ade20k"], mini.make_ade(tmp_path / "raw"), tmp_path)
    root = tmp_path / "ade/ADEChallengeData2016"
    mask = root / "annotations/validation/ADE_val_00000001.png"
    mask.write_bytes(mini.label_png(mini.bands(12, [151], 16)))
    assert run_check("--config", config, "--data-root", root, "--cheap") == 0
    assert "checked names and pairing: 0 errors" in capsys.readouterr().out
    assert run_check("--config", config, "--data-root", root) == 1
    assert (
        "holds the label 150 after reduce_zero_label=True, but labels go from 0 to 149"
        in capsys.readouterr().out
    )


def test_command_line_with_bad_usage(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_check("--config", "cfg_none.py") == 2
    assert capsys.readouterr().err.startswith(
        "error: --config: expected an existing file, but there is"
    )
    with pytest.raises(SystemExit, match="2"):
        run_check()
    (tmp_path / "cfg.py").write_text("model = dict(\n")
    capsys.readouterr()
    assert run_check("--config", "cfg.py") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/cfg.py: cannot be read")
    assert error.count("\n") == 1
    (tmp_path / "cfg.py").write_text("model = dict()\n")
    assert run_check("--config", "cfg.py") == 2
    assert "expected test_dataloader.dataset" in capsys.readouterr().err
    assert run_check("--config", PROJECT / "configs/cfg_voc21.py") == 1
    assert "run `python datasets/prepare.py voc21`" in capsys.readouterr().out


def test_data_are_found_in_the_project_too(prepared, tmp_path, monkeypatch, capsys):
    """As the README says paths are: in the current folder, then in the project's."""
    config = PROJECT / "configs/cfg_ade20k.py"
    monkeypatch.chdir(tmp_path)
    assert run_check("--config", config) == 1
    output = capsys.readouterr().out
    assert f"images/validation: expected a folder here, below {tmp_path} or {PROJECT}" in output
    monkeypatch.setattr("itaclip.data.check.PROJECT_ROOT", prepared)
    assert run_check("--config", config) == 0


def test_an_ignored_label_that_is_a_class_is_refused(folder, capsys):
    """Over 255 classes, 255 is one of them, and mmseg would never score its pixels."""
    config = folder / "cfg.py"
    config.write_text(
        f"""test_dataloader = dict(dataset=dict(
    type="BaseSegDataset", data_root="{folder}",
    metainfo=dict(classes=[str(i) for i in range(300)]),
    data_prefix=dict(img_path="images", seg_map_path="masks"),
    pipeline=[dict(type="LoadImageFromFile"),
              dict(type="LoadMappedAnnotations", mapping={{i: i for i in range(300)}}),
              dict(type="PackSegInputs")]))
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
"""
    )
    assert run_check("--config", config) == 2
    error = capsys.readouterr().err
    assert "test_evaluator.ignore_index: 255 is a class of these 300 as well" in error
    text = config.read_text().replace('["mIoU"])', '["mIoU"], ignore_index=65535)')
    config.write_text(text)
    assert run_check("--config", config) == 0


@pytest.mark.parametrize("place", ["classes", "mask", "list"])
def test_pipes_and_stand_ins_are_named(place, folder, capsys):
    import os

    path = folder / {"classes": "names.txt", "mask": "masks/b.png", "list": "list.txt"}[place]
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    classes = str(path) if place == "classes" else ["a", "b", "c"]
    options = dict(ann_file="list.txt") if place == "list" else {}
    config = folder / "cfg.py"

    def lines():
        dataset = dict(type="BaseSegDataset", data_root=str(folder), data_prefix=PREFIX, **options)
        dataset["metainfo"] = dict(classes=classes)
        config.write_text(f"test_dataloader = dict(dataset={dataset!r})")
        assert run_check("--config", config) == 1
        return capsys.readouterr().out

    assert ("expected a file here" if place == "list" else "is a pipe") in lines()
    path.unlink()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")
    assert "is a pointer of Git LFS, not the file itself; run 'git lfs pull'" in lines()
