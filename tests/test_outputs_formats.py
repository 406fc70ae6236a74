"""Results in the formats of other tools, each read back by its own library or by drawing it."""

import json

import numpy as np
import pytest
from PIL import Image

from itaclip.errors import InputError
from itaclip.predict.outputs import FORMATS, Exporter
from itaclip.predict.outputs.shapes import pieces, polygons, rings
from itaclip.predict.segmentation import Segmentation

H, W = 37, 53


def result(labels=None, classes=("background", "cat", "dog's"), source="image", scores=True):
    if labels is None:
        labels = np.zeros((H, W), np.int32)
        labels[3:20, 5:30] = 1
        labels[8:12, 10:15] = 0  # a hole
        labels[9:11, 11:13] = 2  # in the hole
        labels[20:25, 30:40] = 1  # touches the first by a corner
        labels[30:36, 2:9] = 2
    rng = np.random.default_rng(0)
    values = rng.random((*labels.shape, len(classes)), dtype=np.float32) if scores else None
    palette = tuple((40 * i, 10 * i, 255 - 40 * i) for i in range(len(classes)))
    image = np.zeros((*labels.shape, 3), np.uint8)
    return Segmentation(image, labels, values, tuple(classes), palette, source)


def filled(paths, size=(H, W)):
    """Pixels whose middles lie inside, by rasterio."""
    features = pytest.importorskip("rasterio.features")
    shapes = [{"type": "Polygon", "coordinates": [[*p, p[0]] for p in path]} for path in paths]
    return features.rasterize(shapes, out_shape=size, fill=0).astype(bool)


@pytest.mark.parametrize("seed", range(4))
def test_polygons_drawn_again_give_exactly_their_pixels(seed):
    rng = np.random.default_rng(seed)
    small = rng.random((10, 12)) < 0.6  # many holes, many touching corners
    labels = np.kron(small, np.ones((2 - seed % 2, 2 - seed % 2), bool)).astype(np.int32)
    own = result(labels, classes=("background", "cat"), scores=False)
    for piece in pieces(own):
        full = piece.full_mask(labels.shape)
        outer, holes = rings(piece)
        drawn = filled([[r, *h] for r, h in zip(outer, holes, strict=True)], labels.shape)
        assert np.array_equal(drawn, full)
        joined = filled([[ring] for ring in polygons(piece)], labels.shape)
        assert np.array_equal(joined, full)


def test_polygons_have_corners_only_and_stay_near_when_simplified():
    own = result()
    big = next(p for p in pieces(own) if p.label == 1)
    outer, holes = rings(big)
    assert sorted(map(len, outer)) == [4, 4] or len(outer) == 1  # two squares that touch
    assert sum(len(h) for ring in holes for h in ring) == 4
    exact, loose = filled([[r] for r in polygons(big)]), filled([[r] for r in polygons(big, 2.0)])
    assert (exact != loose).sum() < 0.2 * exact.sum()


def test_pieces_know_area_box_score_and_surest_pixel():
    own = result()
    found = list(pieces(own))
    assert [p.label for p in found] == [1, 2, 2]
    assert sum(p.area for p in found) == (own.labels > 0).sum()
    last = found[-1]
    assert last.box == (2, 30, 7, 6)
    values = own.scores[30:36, 2:9, 2]
    assert (
        last.score == pytest.approx(values.mean()) and own.scores[(*last.surest, 2)] == values.max()
    )
    assert [p.label for p in pieces(own, min_area=5)] == [1, 2]


def export(name, tmp_path, own=None, **options):
    own = own or result()
    return own.export(name, tmp_path / "out", **options)


def test_coco_instances_are_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    (path,) = export("coco", tmp_path)
    data = coco.COCO(str(path))
    own, drawn = result(), np.zeros((H, W), int)
    for annotation in data.loadAnns(data.getAnnIds(imgIds=[1])):
        mask = data.annToMask(annotation).astype(bool)
        assert mask.sum() == annotation["area"]
        drawn[mask] = annotation["category_id"]
    assert np.array_equal(drawn, own.labels)
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == ["cat", "dog's"]


def test_panoptic_segments_cover_the_classes(tmp_path):
    picture, path = export("coco-panoptic", tmp_path)
    content = json.loads(path.read_text())
    colours = np.asarray(Image.open(picture)).astype(int)
    ids = colours @ (1, 256, 65536)
    (annotation,) = content["annotations"]
    assert annotation["file_name"] == picture.name
    for segment in annotation["segments_info"]:
        inside = ids == segment["id"]
        assert inside.sum() == segment["area"]
        x, y, width, height = segment["bbox"]
        assert inside[y : y + height, x : x + width].sum() == segment["area"]
    assert np.array_equal(ids, result().labels)


def test_without_a_background_the_first_class_is_category_1(tmp_path):
    own = result(classes=("sky", "cat", "dog"))
    (path,) = export("coco", tmp_path, own)
    content = json.loads(path.read_text())
    assert content["categories"][0] == {"id": 1, "name": "sky", "supercategory": ""}
    assert {a["category_id"] for a in content["annotations"]} == {1, 2, 3}


def drawn_again(shapes):
    """Later shapes over earlier ones would hide a wrong hole: each pixel is drawn once."""
    drawn, times = np.zeros((H, W), int), np.zeros((H, W), int)
    for label, points in shapes:
        mask = filled([[points]])
        drawn[mask] = label
        times += mask
    assert times.max() == 1
    return drawn


def test_labelme_polygons_are_the_labels(tmp_path):
    picture = tmp_path / "photos" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (W, H)).save(picture)
    own = result(source=str(picture))
    (path,) = export("labelme", tmp_path, own, tolerance=0)
    content = json.loads(path.read_text())
    assert (path.parent / content["imagePath"]).resolve() == picture
    assert (content["imageHeight"], content["imageWidth"]) == (H, W)
    shapes = [(own.classes.index(s["label"]), s["points"]) for s in content["shapes"]]
    assert np.array_equal(drawn_again(shapes), own.labels)


def test_label_studio_has_the_labels_in_percent_and_a_set_up(tmp_path):
    from xml.etree import ElementTree

    own = result(source="photos/a b.png")
    tasks, view = export("label-studio", tmp_path, own, tolerance=0)
    (task,) = json.loads(tasks.read_text())
    assert task["data"]["image"] == "/data/local-files/?d=a%20b.png"
    shapes = [
        (own.classes.index(r["value"]["polygonlabels"][0]),
         np.array(r["value"]["points"]) * (W / 100, H / 100))
        for r in task["predictions"][0]["result"]
    ]  # fmt: skip
    assert np.array_equal(drawn_again(shapes), own.labels)
    labels = ElementTree.fromstring(view.read_text()).iter("Label")
    assert [label.get("value") for label in labels] == ["cat", "dog's"]


def test_yolo_lines_are_the_labels_without_the_background(tmp_path):
    own = result()
    path, data = export("yolo", tmp_path, own, tolerance=0)
    shapes = []
    for line in path.read_text().splitlines():
        label, *points = line.split()
        shapes.append((int(label) + 1, np.array(points, float).reshape(-1, 2) * (W, H)))
    assert np.array_equal(drawn_again(shapes), own.labels)
    assert data.read_text() == "names:\n  0: 'cat'\n  1: 'dog''s'\n"


def test_geotiff_keeps_the_place_on_earth(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.transform.from_origin(500000, 5200000, 0.5, 0.5)
    picture = tmp_path / "field.tif"
    keys = dict(driver="GTiff", width=W, height=H, count=3, dtype="uint8", crs="EPSG:32632")
    with rasterio.open(picture, "w", **keys, transform=place) as target:
        target.write(np.zeros((3, H, W), np.uint8))
    own = result(source=str(picture))
    (path,) = export("geotiff", tmp_path, own)
    with rasterio.open(path) as written:
        assert written.crs.to_epsg() == 32632 and written.transform == place
        assert np.array_equal(written.read(1), own.labels)
        assert json.loads(written.tags()["classes"]) == list(own.classes)
        assert written.colormap(1)[1][:3] == own.palette[1]


def test_scores_and_masks_are_read_again(tmp_path):
    own = result()
    npz, mask, names = export("scores,mask", tmp_path, own)
    with np.load(npz) as kept:
        assert np.allclose(kept["scores"], own.scores, atol=1e-3)
        assert kept["classes"].tolist() == list(own.classes)
    assert np.array_equal(np.asarray(Image.open(mask)), own.labels)
    assert names.read_text().splitlines()[1] == "1 cat"


def test_prompts_lie_in_their_classes(tmp_path):
    own = result(scores=False)
    (path,) = export("sam-prompts", tmp_path, own)
    for name, prompts in json.loads(path.read_text())["classes"].items():
        for (x, y), (left, top, right, bottom) in zip(
            prompts["points"], prompts["boxes"], strict=True
        ):
            assert own.labels[y, x] == own.classes.index(name)
            assert left <= x < right and top <= y < bottom


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_result_is_written_too(name, tmp_path):
    for package in ("pycocotools", "rasterio"):
        pytest.importorskip(package)
    own = result(np.zeros((H, W), np.int32))
    assert all(path.is_file() for path in export(name, tmp_path, own))


def test_names_never_collide_and_no_picture_is_replaced(tmp_path):
    exporter = Exporter(["labelme", "yolo"], ["a/x.png", "b/x.jpg"], tmp_path)
    files = exporter.write(result(source="a/x.png")) + exporter.write(result(source="b/x.jpg"))
    assert len(set(files)) == 4
    with pytest.raises(InputError, match="would replace the picture"):
        Exporter(["mask"], [tmp_path / "masks" / "x.png"], tmp_path)
    with pytest.raises(InputError, match="expected names out of overlay, mask"):
        Exporter(["gif"], ["x.png"], tmp_path)
    with pytest.raises(InputError, match="tolerance"):
        result().export("labelme", tmp_path, tolerance=-1)


def test_segment_writes_formats_below_out(tmp_path, monkeypatch, capsys):
    from itaclip.commands import main

    monkeypatch.chdir(tmp_path)
    scene = tmp_path / "scene.png"
    Image.new("RGB", (112, 112), "blue").save(scene)
    arguments = [str(scene), "--model", "storybook-tiny", "--classes", "sky; sea"]
    main(["segment", *arguments, "--format", "labelme,yolo", "--out", "found"])
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")} == {
        "scene.png", "found/labelme/scene.json", "found/yolo/labels/scene.txt",
        "found/yolo/data.yaml"}  # fmt: skip
    assert "data.yaml" in capsys.readouterr().out
