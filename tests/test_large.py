"""Large pictures: tiles give the labels of the whole picture, and a stopped run goes on."""

from types import SimpleNamespace

import numpy as np
import pytest

import itaclip
from itaclip.errors import InputError
from itaclip.predict import large

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
H, W = 150, 260


@pytest.fixture(scope="module")
def model():
    return itaclip.load(
        "storybook-tiny", stride=48, pamr=dict(num_iter=2, dilations=(4,)), label_closing=3,
        precision="fp32", text_cache=False,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(large, "_BLOCK", 32)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "field.tif"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, H // 10, W // 10), dtype=np.uint8).repeat(10, 1).repeat(10, 2)
    place = rasterio.transform.from_origin(500000, 5200000, 0.5, 0.5)
    keys = dict(driver="GTiff", height=H, width=W, count=3, dtype="uint8", crs="EPSG:32632")
    with rasterio.open(path, "w", **keys, transform=place) as target:
        target.write(pixels)
    return path


def test_tiles_are_the_whole_picture(model, picture, tmp_path):
    told = []
    out = large.segment_large(
        model, picture, tmp_path / "labels.tif", "sky; sea; boat; sand", tile=96,
        on_tile=lambda done, of: told.append((done, of)),
    )  # fmt: skip
    whole = model.segment(picture, "sky; sea; boat; sand", scores=False).labels
    with rasterio.open(out) as written:
        assert written.crs.to_epsg() == 32632 and written.transform.a == 0.5
        labels = written.read(1)
    assert len(np.unique(whole)) > 1
    assert (labels != whole).mean() < 1e-4  # rounding
    assert told == [(i, 6) for i in range(7)]
    assert {p.name for p in tmp_path.iterdir()} == {"field.tif", "labels.tif"}


@pytest.mark.parametrize("side", [112, 113, 300, 500])
def test_regions_hold_every_window_that_a_tile_sees(model, side):
    segmentor, tile = model.segmentor, 96
    grid = segmentor.settings.windows.over((side, side))
    halo = large.reach(segmentor)
    assert halo == 2 * 4 + 2
    for one in large.plan_tiles((side, side), segmentor, tile):
        first, _, last, _ = one.core
        above, _, below, _ = one.region
        needed = {t for t in grid.tops if t < last + halo and t + 112 > first - halo}
        own = segmentor.settings.windows.over((below - above, 112))
        assert {above + t for t in own.tops} == needed


def test_a_stopped_run_goes_on_and_other_work_is_refused(model, picture, tmp_path, monkeypatch):
    out = tmp_path / "labels.tif"

    def stop(done, of):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        large.segment_large(model, picture, out, "sky; sea", tile=96, on_tile=stop)
    assert not out.exists() and len(list((tmp_path / "labels.tif.tiles").glob("*.png"))) == 2
    with pytest.raises(InputError, match="of another picture, words or settings"):
        large.segment_large(model, picture, out, "sky; boat", tile=96)
    made = []
    real = large._labels
    monkeypatch.setattr(large, "_labels", lambda *a: made.append(a) or real(*a))
    large.segment_large(model, picture, out, "sky; sea", tile=96)
    assert len(made) == 4 and out.is_file()


def test_what_looks_at_the_whole_picture_is_refused(model, picture, tmp_path):
    out = tmp_path / "labels.tif"
    for keys in (dict(area_thd=0.1), dict(regions=dict(source="slic"))):
        own = model.variant(**keys)
        with pytest.raises(InputError, match=f"{next(iter(keys))}: it looks at the whole picture"):
            large.segment_large(own, picture, out, "sky; sea")
    joint = model.variant()
    encoder = joint.segmentor.image_encoder.variant("clip")
    encoder.recipe = SimpleNamespace(
        name="gla", joint=True, needs_stitch=False, needs_regions=False, reads_cls=None
    )
    with pytest.raises(InputError, match="attention: the recipe 'gla' looks at the whole"):
        large.check_local(joint.segmentor.variant(image_encoder=encoder))
    with pytest.raises(InputError, match="needs windows"):
        large.segment_large(model.variant(test_cfg=dict(mode="whole")), picture, out, "sky; sea")
    with pytest.raises(InputError, match=r"ends in \.tif"):
        large.segment_large(model, picture, tmp_path / "labels.png", "sky; sea")
    with pytest.raises(InputError, match="would replace the picture"):
        large.segment_large(model, picture, picture, "sky; sea")


def test_other_than_eight_bits_is_refused(model, tmp_path):
    path = tmp_path / "deep.tif"
    with rasterio.open(path, "w", driver="GTiff", height=64, width=64, count=3, dtype="uint16"):
        pass
    with pytest.raises(InputError, match="expected bands of 8 bits, but they are uint16"):
        large.segment_large(model, path, tmp_path / "labels.tif", "sky; sea")
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(InputError, match=r"text.tif: the picture cannot be read"):
        large.segment_large(model, tmp_path / "text.tif", tmp_path / "labels.tif", "sky; sea")


def test_the_command_line_writes_a_geotiff(picture, monkeypatch, tmp_path, capsys):
    from itaclip.commands import main

    monkeypatch.chdir(tmp_path)
    arguments = ["segment", "field.tif", "--model", "storybook-tiny", "--classes", "sky; sea",
                 "--tile", "96", "--stride", "112"]  # fmt: skip
    main(arguments)
    assert "field.tif -> field_labels.tif" in capsys.readouterr().out
    with rasterio.open("field_labels.tif") as written:
        assert written.shape == (H, W)
    with pytest.raises(InputError, match="--mask: it does not go with --tile"):
        main([*arguments, "--mask", "m.png"])
