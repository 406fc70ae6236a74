"""Every benchmark from miniature raw downloads to finished masks, written by hand."""

import json
import shutil

import mini_datasets as mini
import numpy as np
import pytest

from itaclip.data.preparation.context import read_annotations
from itaclip.errors import InputError

COCO = "coco_stuff164k"
COCO_VAL = f"{COCO}/annotations/val2017"


def assert_masks(folder, expected, suffix):
    for name, mask in expected.items():
        found = mini.read(folder / f"{name}{suffix}")
        assert found.dtype == np.uint8
        assert found.tolist() == mask.tolist(), name


def prepare_fails(capsys, names, raw, data, **settings):
    """Run a preparation that must fail; return its error line."""
    with pytest.raises(AssertionError):
        mini.prepare(names, raw, data, **settings)
    return capsys.readouterr().err


@pytest.mark.parametrize("extracted", [False, True])
def test_all_eight(tmp_path, extracted):
    raw, data = mini.make_all(tmp_path / "raw", extracted), tmp_path / "data"
    before = mini.snapshot(raw)
    lines = mini.prepare(mini.NAMES, raw, data, workers=2)
    voc, context = data / "VOCdevkit/VOC2012", data / "VOCdevkit/VOC2010"
    ade = data / "ade/ADEChallengeData2016"
    assert_masks(voc / "SegmentationClass", mini.VOC_MASKS, ".png")
    assert_masks(context / "SegmentationClassContext", mini.CONTEXT_MASKS, ".png")
    assert_masks(data / COCO_VAL, mini.COCO_STUFF_MASKS, "_labelTrainIds.png")
    assert_masks(data / COCO_VAL, mini.COCO_OBJECT_MASKS, "_instanceTrainIds.png")
    city = data / "cityscapes/gtFine/val"
    assert_masks(city, mini.CITYSCAPES_MASKS, "_gtFine_labelTrainIds.png")
    assert_masks(ade / "annotations/validation", mini.ADE_MASKS, ".png")

    val = (voc / "ImageSets/Segmentation/val.txt").read_bytes()
    assert val == b"2007_000033\n2007_000042\n2007_000061\n"  # no CRLF, no blank line
    val = (context / "ImageSets/SegmentationContext/val.txt").read_bytes()
    assert val == b"2008_000002\n2008_000003\n"
    assert (data / COCO / "images/val2017/000000000632.jpg").is_file()
    assert (ade / "images/validation/ADE_val_00000002.jpg").is_file()
    images = list((data / "cityscapes/leftImg8bit/val").rglob("*_leftImg8bit.png"))
    assert len(images) == 3 or extracted  # (rglob does not enter links)
    assert any("voc21 val should have 1449 images but has 3" in line for line in lines)

    if extracted:  # images are links, and the raw downloads are as they were
        for link in (voc / "JPEGImages", data / COCO / "images/val2017", ade / "images/validation"):
            assert link.is_symlink()
        assert not list(raw.rglob("*TrainIds.png"))
    else:  # only what the val split needs was extracted
        assert len(list((voc / "JPEGImages").iterdir())) == 3
        assert not (ade / "images/training").exists()
        assert not (data / COCO / "annotations/train2017").exists()
        assert not list(data.rglob("*_color.png"))
    assert mini.snapshot(raw) == before

    # A second time, in another order and without naming the places: nothing changes.
    before = mini.snapshot(data)
    options = {"places": (), "context_json": raw / "trainval_merged.json"}
    mini.prepare(mini.NAMES[::-1], raw, data, **options)
    assert mini.snapshot(data) == before


def test_manifest_describes_the_masks(tmp_path):
    raw, data = mini.make_coco(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["coco_object"], raw, data)
    manifest = json.loads((data / COCO / "manifest_coco_object.json").read_text())
    val = manifest["splits"]["val"]
    assert (val["images"], val["masks"], val["expected"], val["complete"]) == (3, 3, 5000, False)
    values, counts = np.unique(
        np.concatenate([mask.reshape(-1) for mask in mini.COCO_OBJECT_MASKS.values()]),
        return_counts=True,
    )
    expected = {str(value): int(count) for value, count in zip(values, counts, strict=True)}
    assert val["label_histogram"] == expected
    # The checksums follow the data, not the way they came.
    elsewhere = tmp_path / "elsewhere"
    mini.prepare(["coco_object"], mini.make_coco(tmp_path / "raw2", True), elsewhere, workers=2)
    other = json.loads((elsewhere / COCO / "manifest_coco_object.json").read_text())
    for key in ("histogram_sha256", "masks_sha256", "label_histogram"):
        assert other["splits"]["val"][key] == val[key]


@pytest.mark.parametrize("order", [("coco_object", "coco_stuff"), ("coco_stuff", "coco_object")])
def test_coco_order_does_not_matter(tmp_path, order):
    raw, data = mini.make_coco(tmp_path / "raw"), tmp_path / "data"
    for name in order:
        mini.prepare([name], raw, data)
    before = mini.snapshot(data)
    for name in order:
        mini.prepare([name], raw, data)
    assert mini.snapshot(data) == before
    assert len(list((data / COCO_VAL).iterdir())) == 9  # no mask of a mask
    assert_masks(data / COCO_VAL, mini.COCO_STUFF_MASKS, "_labelTrainIds.png")
    assert_masks(data / COCO_VAL, mini.COCO_OBJECT_MASKS, "_instanceTrainIds.png")


def test_damaged_missing_and_foreign_masks_are_made_again(tmp_path):
    raw, data = mini.make_coco(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["coco_stuff"], raw, data)
    cut, gone, foreign = (data / COCO_VAL / f"{n}_labelTrainIds.png" for n in mini.COCO_RAW)
    cut.write_bytes(cut.read_bytes()[:60])
    gone.unlink()
    foreign.write_bytes(mini.label_png(mini.bands(10, [1], 18)))
    lines = mini.prepare(["coco_stuff"], raw, data)
    assert_masks(data / COCO_VAL, mini.COCO_STUFF_MASKS, "_labelTrainIds.png")
    assert any("1 written, 2 made again" in line for line in lines)
    assert not list(data.rglob("*.tmp"))


def test_force_makes_all_again(tmp_path):
    raw, data = mini.make_coco(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["coco_stuff"], raw, data)
    assert "3 unchanged" in " ".join(mini.prepare(["coco_stuff"], raw, data))
    assert "3 made again" in " ".join(mini.prepare(["coco_stuff"], raw, data, force=True))


@pytest.mark.parametrize("wrong", [11, 200])
@pytest.mark.parametrize("workers", [1, 2])
def test_coco_refuses_unlisted_ids(tmp_path, capsys, wrong, workers):
    raw, data = mini.make_coco(tmp_path / "raw", extracted=True), tmp_path / "data"
    path = raw / "annotations/val2017/000000000285.png"
    path.write_bytes(mini.label_png(mini.bands(14, [0, wrong], 5)))
    error = prepare_fails(capsys, ["coco_object"], raw, data, workers=workers)
    assert error.startswith("error: coco_object:")
    assert f"000000000285.png: label values {wrong} are not defined" in error
    assert not (data / COCO_VAL / "000000000285_instanceTrainIds.png").exists()


def test_coco_object_from_finished_stuff_masks(tmp_path):
    raw, data = mini.make_coco(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["coco_stuff"], raw, data)
    for path in raw.glob("stuff*"):
        path.unlink()
    for name in mini.COCO_RAW:
        (data / COCO_VAL / f"{name}.png").unlink()
    lines = mini.prepare(["coco_object"], raw, data)
    assert_masks(data / COCO_VAL, mini.COCO_OBJECT_MASKS, "_instanceTrainIds.png")
    assert any("made from the masks *_labelTrainIds.png" in line for line in lines)
    # And finished masks alone are verified, not asked for again.
    before = mini.snapshot(data)
    lines = mini.prepare(["coco_stuff"], raw, data)
    assert any("verifying the finished ones" in line for line in lines)
    assert {**mini.snapshot(data), "": ()} == {**before, "": ()}


def test_an_image_without_mask_is_reported(tmp_path, capsys):
    raw, data = mini.make_coco(tmp_path / "raw", extracted=True), tmp_path / "data"
    (raw / "annotations/val2017/000000000285.png").unlink()
    error = prepare_fails(capsys, ["coco_stuff"], raw, data)
    assert "1 of 3 images have no mask" in error
    assert "000000000285.png" in error


def test_voc_missing_mask_and_wrong_label(tmp_path, capsys):
    raw, data = mini.make_voc(tmp_path / "raw", extracted=True), tmp_path / "data"
    mask = raw / "VOCdevkit/VOC2012/SegmentationClass/2007_000042.png"
    mask.write_bytes(mini.label_png(mini.bands(14, [21], 10)))
    error = prepare_fails(capsys, ["voc21"], raw, data)
    assert "2007_000042.png: label values 21 are not defined" in error
    assert "expected 0-20, 255" in error
    mask.unlink()
    error = prepare_fails(capsys, ["voc20"], raw, data)
    assert "VOCtrainval_11-May-2012.tar" in error
    assert "--raw" in error


def test_train_split_beside_val(tmp_path):
    raw, data = mini.make_voc(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["voc21"], raw, data)
    before = mini.snapshot(data / "VOCdevkit/VOC2012/JPEGImages")
    mini.prepare(["voc21"], raw, data, splits=("train",))
    tree = data / "VOCdevkit/VOC2012"
    after = mini.snapshot(tree / "JPEGImages")
    assert set(after) - set(before) == {"2007_000032.jpg"}
    assert all(after[name] == before[name] for name in before)
    manifest = json.loads((tree / "manifest_voc21.json").read_text())
    assert {split: entry["images"] for split, entry in manifest["splits"].items()} == {
        "train": 1,
        "val": 3,
    }


def test_context_train_and_order_of_the_file(tmp_path):
    raw, data = mini.make_context(tmp_path / "raw"), tmp_path / "data"
    mini.prepare(["context59"], raw, data, splits=("train", "val"))
    tree = data / "VOCdevkit/VOC2010"
    # The train image is covered by 415 (index 51) wholly.
    assert mini.read(tree / "SegmentationClassContext/2008_000004.png").tolist() == [[51] * 8] * 9
    assert (tree / "ImageSets/SegmentationContext/train.txt").read_text() == "2008_000004\n"
    assert not (tree / "JPEGImages/2010_000999.jpg").exists()


def test_context_refuses_unlisted_id(tmp_path, capsys):
    raw, data = mini.make_context(tmp_path / "raw"), tmp_path / "data"
    content = mini.context_annotations()
    content["annos_segmentation"][1]["category_id"] = 300
    (raw / "trainval_merged.json").write_text(json.dumps(content))
    error = prepare_fails(capsys, ["context60"], raw, data)
    assert "image 2008_000003: label values 300 are not defined" in error
    assert not (data / "VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt").exists()


def test_context_json_is_verified(tmp_path, capsys):
    raw, data = mini.make_context(tmp_path / "raw"), tmp_path / "data"
    error = prepare_fails(capsys, ["context60"], raw, data, context_json_sha1=None)
    assert "169325d9f7e9047537fedca7b04de4dddf10b881 was expected" in error
    assert "--context-json-sha1" in error
    (raw / "trainval_merged.json").unlink()
    error = prepare_fails(capsys, ["context60"], raw, data)
    assert "--context-json" in error
    assert "--context-mat" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not complete JSON"),
        ('{"images": []}', "annos_segmentation"),
        ('{"images": [{"image_id": 1}], "annos_segmentation": []}', "height"),
        ("[]", "is not laid out like"),
    ],
)
def test_context_json_of_another_layout(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize("archived", [False, True])
def test_context_from_mat_files(tmp_path, archived):
    scipy_io = pytest.importorskip("scipy.io")
    raw, data = mini.make_context(tmp_path / "raw"), tmp_path / "data"
    (raw / "trainval_merged.json").unlink()
    mats = tmp_path / "mats/trainval"
    mats.mkdir(parents=True)
    for name in mini.CONTEXT_MASKS:
        ids = np.array([[2, 9], [458, 300]], np.uint16)
        scipy_io.savemat(mats / f"{name}.mat", {"LabelMap": ids})
    given = mats.parent
    if archived:
        files = {f"trainval/{path.name}": path.read_bytes() for path in mats.iterdir()}
        mini.write_files(tmp_path, files, "trainval.tar.gz")
        given = tmp_path / "trainval.tar.gz"
    lines = mini.prepare(["context60"], raw, data, context_mat=given)
    tree = data / "VOCdevkit/VOC2010"
    for name in mini.CONTEXT_MASKS:
        found = mini.read(tree / f"SegmentationClassContext/{name}.png")
        assert found.tolist() == [[1, 2], [59, 0]]
    assert any("not comparable" in line for line in lines)
    manifest = json.loads((tree / "manifest_context60.json").read_text())
    assert manifest["splits"]["val"]["route"] == "mat"
    # The other route does not keep these masks.
    mini.make_context(raw)
    mini.prepare(["context60"], raw, data)
    assert_masks(tree / "SegmentationClassContext", mini.CONTEXT_MASKS, ".png")


def test_cityscapes_sentence_names_the_registration(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    error = prepare_fails(capsys, ["cityscapes"], tmp_path / "raw", tmp_path / "data")
    assert error.count("\n") == 1
    assert "leftImg8bit_trainvaltest.zip" in error
    assert "register at https://www.cityscapes-dataset.com" in error


def test_cityscapes_without_label_images(tmp_path, capsys):
    raw, data = mini.make_cityscapes(tmp_path / "raw", extracted=True), tmp_path / "data"
    for path in raw.rglob("*_labelIds.png"):
        path.unlink()
    try:
        import cityscapesscripts  # noqa: F401
    except ImportError:
        error = prepare_fails(capsys, ["cityscapes"], raw, data)
        assert "cityscapesscripts" in error
        assert "labelIds.png" in error


def test_cityscapes_polygons_match_the_label_images(tmp_path):
    pytest.importorskip("cityscapesscripts")
    raw, data = mini.make_cityscapes(tmp_path / "raw", extracted=True), tmp_path / "data"
    for path in raw.rglob("*_labelIds.png"):
        path.unlink()
    square = [[2, 2], [2, 7], [9, 7], [9, 2]]
    objects = [
        {"label": "road", "polygon": [[0, 0], [0, 40], [40, 40], [40, 0]]},
        {"label": "cargroup", "polygon": square},
        {"label": "license plate", "polygon": [[4, 4], [4, 5], [5, 5], [5, 4]]},
        {"label": "bus", "deleted": 1, "polygon": square},
    ]
    for path in raw.rglob("*_polygons.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "objects": objects}))
    mini.prepare(["cityscapes"], raw, data)
    for name, mask in mini.CITYSCAPES_RAW.items():
        found = mini.read(data / f"cityscapes/gtFine/val/{name}_gtFine_labelTrainIds.png")
        expected = np.zeros_like(mask)
        expected[2:8, 2:10] = 13  # a group of cars counts as cars
        assert found.tolist() == expected.tolist()


def test_ade_refuses_labels_above_150(tmp_path, capsys):
    raw, data = mini.make_ade(tmp_path / "raw", extracted=True), tmp_path / "data"
    path = raw / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png"
    path.write_bytes(mini.label_png(mini.bands(12, [151], 16)))
    error = prepare_fails(capsys, ["ade20k"], raw, data)
    assert "ADE_val_00000001.png: label values 151" in error


def test_one_failure_does_not_keep_the_others(tmp_path, capsys):
    raw, data = mini.make_ade(tmp_path / "raw"), tmp_path / "data"
    error = prepare_fails(capsys, ["cityscapes", "ade20k"], raw, data)
    assert "error: cityscapes" in error
    assert (data / "ade/ADEChallengeData2016/manifest_ade20k.json").is_file()


def test_tree_given_as_its_inner_folder(tmp_path):
    raw, data = mini.make_coco(tmp_path / "raw", extracted=True), tmp_path / "data"
    places = (raw / "images/val2017", raw / "annotations")
    mini.prepare(["coco_stuff"], raw, data, places=places)
    assert_masks(data / COCO_VAL, mini.COCO_STUFF_MASKS, "_labelTrainIds.png")
    shutil.rmtree(raw / "annotations")
    mini.prepare(["coco_stuff"], raw, data, places=())  # the finished masks suffice
