"""``itaclip label`` on a cluster of three Ray nodes: the same bytes, also after losses."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

ray = pytest.importorskip("ray", reason="extra ray")

from conftest import bgr_image  # noqa: E402

import itaclip  # noqa: E402
from itaclip.labelling.job import make_job  # noqa: E402
from itaclip.labelling.places import Place  # noqa: E402
from itaclip.labelling.run import run  # noqa: E402
from itaclip.labelling.source import find_source  # noqa: E402

CLASSES = "sky; sea, ocean; boat"
PICTURES = 60
pytestmark = pytest.mark.skipif(
    os.environ.get("ITACLIP_SLOW_TESTS") != "1",
    reason="starts a dozen processes that import PyTorch: ITACLIP_SLOW_TESTS=1",
)


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of which the last may be lost; the driver's has one CPU alone."""
    from ray.cluster_utils import Cluster

    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal")
    store = 200 << 20
    made = Cluster(True, head_node_args=dict(num_cpus=1, object_store_memory=store))
    made.others = [made.add_node(num_cpus=2, object_store_memory=store) for _ in range(2)]
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of three sizes, one of them damaged."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(PICTURES):
        picture = bgr_image(40 + number % 3, 50, number).permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(folder / f"p{number:03d}.png")
    (folder / "p011.png").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def label(pictures, tiny_clip_path, tmp_path_factory):
    """Labels the pictures: the parts' bytes and the manifest."""
    options = dict(short_side=64, stride=64, image_engineering_weight=None, pamr=None)
    source = find_source(str(pictures), 7)

    def start(engine, while_running=None):
        out = tmp_path_factory.mktemp("out")
        job = make_job(tiny_clip_path, CLASSES, **options)
        stop = threading.Event()
        if while_running:
            watcher = threading.Thread(target=while_running, args=(out, stop), daemon=True)
            watcher.start()
        manifest = run(
            source, Place(str(out)), "parquet", job, engine=engine, max_errors=1,
            settings={}, start={}, threads=1, actors=3 if engine == "ray" else None,
        )  # fmt: skip
        if while_running:
            stop.set()
            watcher.join()
        return {p.name: p.read_bytes() for p in out.glob("part-*")}, manifest

    return start


@pytest.fixture(scope="module")
def expected(label):
    return label("local")


def workers(kind):
    """Process numbers of Ray's workers of a kind."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "cmdline").read_bytes().startswith(f"ray::{kind}".encode()):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_worker_lost_changes_no_byte(cluster, label, expected):
    killed = []

    def kill(out, stop):
        while not stop.is_set() and not killed:
            if list(out.glob("part-*")) and (found := workers("MapWorker")):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
            time.sleep(0.01)

    parts, manifest = label("ray", kill)
    assert killed
    assert parts == expected[0] and len(parts) == 9
    assert manifest.failed == 1 and manifest.pictures == PICTURES


def test_a_machine_lost_changes_no_byte(cluster, label, expected):
    lost = []

    def kill(out, stop):
        while not stop.is_set() and not lost:
            if list(out.glob("part-*")):
                cluster.remove_node(cluster.others[-1], allow_graceful=False)
                lost.append(True)
            time.sleep(0.01)

    parts, manifest = label("ray", kill)
    assert lost
    assert parts == expected[0]
    assert manifest.failed == 1 and manifest.pictures == PICTURES


def test_more_actors_than_there_is_room_for_are_refused(cluster):
    from itaclip.labelling.cluster import _pool

    total = {"CPU": 5.0}
    assert _pool(None, total, 0, 1) == (1, 4)
    assert _pool(4, total, 0, 1) == (4, 4)
    assert _pool((1, 2), total, 0, 2) == (1, 2)
    assert _pool(None, {"CPU": 5.0, "GPU": 4.0}, 0.5, 1) == (1, 8)
    for actors, cpus, threads in ((5, 5.0, 1), (3, 5.0, 2), (None, 1.0, 1), (None, 5.0, 3)):
        with pytest.raises(itaclip.InputError, match="CPUs"):
            _pool(actors, {"CPU": cpus}, 0, threads)


def test_a_dataset_of_ones_own(cluster, pictures, tiny_clip_path):
    import numpy as np

    paths = sorted(pictures.glob("*.png"))[9:13]
    options = dict(model=tiny_clip_path, short_side=64, stride=64, actors=1)
    rows = [{"picture": path.read_bytes(), "id": path.name, "mine": 7} for path in paths]
    arrays = [{"picture": np.asarray(Image.open(path)), "mine": 8} for path in paths[:2]]
    model = itaclip.load(tiny_clip_path, short_side=64, stride=64, device="cpu")
    for given in (rows, arrays):
        made = itaclip.label(
            ray.data.from_items(given), CLASSES, image_column="picture", key_column="id", **options
        ).take_all()
        assert len(made) == len(given)
        for row in made:
            assert "picture" not in row and row["mine"] == given[0]["mine"]
        good = [row for row in made if row["error"] is None]
        assert len(good) == len(given) - (given is rows)
        expected = [model.segment(p, CLASSES).as_dict() for p in paths if p.name != "p011.png"]
        shares = {tuple(f["pixels"] for f in one["found"]) for one in expected}
        assert {tuple(f["pixels"] for f in row["found"]) for row in good} <= shares
        if given is rows:
            assert [r["error"] for r in made if r["error"]] == [
                "p011.png: this is no picture that can be read; save it as PNG or JPEG."
            ]
