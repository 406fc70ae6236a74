"""Regions and class pruning in the segmentor, through every door."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

import itaclip
from itaclip.errors import BadSampleError, InputError
from itaclip.mmseg_segmentor import ITACLIPSegmentor
from itaclip.postprocess import label_map
from itaclip.regions import Picture, pool, vote
from itaclip.vocabulary import Vocabulary

WORDS = Vocabulary.from_lists([["sky"], ["sea", "ocean"], ["cat"], ["boat", "sailboat"]])
H, W = 64, 80


@pytest.fixture(scope="module")
def plain():
    return ITACLIPSegmentor(
        "storybook-tiny", vocabulary=WORDS, test_cfg=dict(mode="whole"), text_cache=False,
        label_closing=3,
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(0)
    return torch.randn(3, H, W)


def region_map():
    return (np.arange(H)[:, None] // 20 * 4 + np.arange(W) // 20).astype(np.uint8)  # 0 … 15


@pytest.fixture
def files(tmp_path):
    Image.fromarray(region_map()).save(tmp_path / "a.png")
    return dict(source="files", folder=str(tmp_path))


def picture(**keys):
    return Picture((H, W), "photos/a.jpg", lambda: np.zeros((H, W, 3), np.uint8), **keys)


@pytest.mark.parametrize("return_scores", [True, False])
def test_votes_come_last_and_leave_the_scores(plain, image, files, return_scores):
    voting = plain.variant(regions=files, return_scores=return_scores)
    labels, scores = voting.segment(image, (H, W), picture=picture())
    before, same = plain.segment(image, (H, W))
    assert torch.equal(labels, vote(before, torch.from_numpy(region_map()).long()))
    assert not torch.equal(labels, before)
    assert scores is None if not return_scores else torch.equal(scores, same)


@pytest.mark.parametrize("return_scores", [True, False])
def test_means_come_before_labels(plain, image, files, return_scores):
    keys = dict(label_closing=0, return_scores=return_scores)
    pooling = plain.variant(regions=files | dict(rule="mean"), **keys)
    labels, scores = pooling.segment(image, (H, W), picture=picture())
    _, before = plain.segment(image, (H, W))
    expected = pool(before, torch.from_numpy(region_map()).long())
    assert torch.equal(labels, label_map(expected, 0))
    assert scores is None if not return_scores else torch.equal(scores, expected)


def test_a_flipped_input_gives_the_flipped_regions(plain, image, files):
    voting = plain.variant(regions=files)

    def predicted(own, **meta):
        sample = SegDataSample(metainfo=dict(ori_shape=(H, W), img_path="photos/a.jpg", **meta))
        return voting.predict(own[None], [sample])[0].pred_sem_seg.data[0]

    ids = torch.from_numpy(region_map()).long()
    flipped = predicted(image.flip(2), flip=True, flip_direction="horizontal")
    for labels in (predicted(image), flipped):
        assert torch.equal(labels, vote(labels, ids))


def test_superpixels_need_no_file(plain, image):
    pytest.importorskip("skimage")
    labels, _ = plain.variant(regions=dict(source="slic", segments=20)).segment(image, (H, W))
    assert labels.shape == (H, W)


def test_sources_see_the_file_or_else_the_network_input(plain, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), pixels[..., ::-1])
    bgr = torch.from_numpy(pixels[..., ::-1].transpose(2, 0, 1).copy())
    own = plain.data_preprocessor({"inputs": [bgr]})["inputs"][0]
    for meta in (dict(img_path=str(path)), {}, dict(img_path="none.png")):
        known = plain.picture_of(SegDataSample(metainfo=meta), own, (H, W))
        assert np.abs(known.pixels().astype(int) - pixels).max() <= 1


# ---- pruning ------------------------------------------------------------------------------------


def test_the_oracle_leaves_out_what_the_ground_truth_lacks(plain, image):
    oracle = plain.variant(class_pruning=dict(rule="oracle"))
    sample = SegDataSample(metainfo=dict(ori_shape=(H, W)))
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 2, 255]]]))
    found = oracle.predict(image[None], [sample])[0]
    assert {*found.pred_sem_seg.data.unique().tolist()} <= {0, 2}
    scores = found.seg_logits.data
    assert scores[[1, 3]].eq(0).all() and torch.allclose(scores.sum(0), torch.ones(H, W))
    strips = oracle.variant(return_scores=False, pamr=dict(num_iter=2, dilations=(2,)))
    labels, _ = strips.segment(image, (H, W), picture=picture(truth=torch.tensor([[2]])))
    assert labels.unique().tolist() == [2]
    with pytest.raises(InputError, match="'oracle' reads the ground truth"):
        oracle.segment(image, (H, W))


def test_max_score_leaves_out_unsure_classes_and_never_a_background(plain, image):
    _, scores = plain.segment(image, (H, W))
    best = scores.amax((0, 1))
    threshold = float(best.sort()[0][2])
    labels, _ = plain.variant(
        class_pruning=dict(rule="max_score", threshold=threshold)
    ).segment(image, (H, W))  # fmt: skip
    assert {*labels.unique().tolist()} <= {*(best >= threshold).nonzero().flatten().tolist()}
    words = Vocabulary.from_lists([["wall"], *WORDS.class_names], background=True)
    only = plain.variant(vocabulary=words, class_pruning=dict(rule="max_score", threshold=1.0))
    _, scores = only.segment(image, (H, W))
    assert scores[..., 0].gt(0).all() and scores.amax((0, 1)).gt(0).sum() <= 2


def test_presence_keeps_so_many_classes(plain, image):
    rule = dict(rule="presence", at_least=2, at_most=2)
    _, scores = plain.variant(class_pruning=rule, return_scores=True).segment(image, (H, W))
    assert scores.amax((0, 1)).gt(0).sum() == 2


# ---- doors --------------------------------------------------------------------------------------


def test_the_api_reads_maps_beside_the_pictures(tmp_path, files):
    rng = np.random.default_rng(0)
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    Image.fromarray(rng.integers(0, 256, (H, W, 3), dtype=np.uint8)).save(photo)
    model = itaclip.load("storybook-tiny", regions=files, text_cache=False)
    labels = model.segment(photo, "sky; sea; boat").labels
    ids = torch.from_numpy(region_map()).long()
    assert torch.equal(torch.from_numpy(labels).long(), vote(torch.from_numpy(labels).long(), ids))
    with pytest.raises(InputError, match="this picture has none"):
        model.segment(np.zeros((H, W, 3), np.uint8), "sky; sea")
    missing = photo.with_name("b.jpg")
    missing.write_bytes(photo.read_bytes())
    with pytest.raises(BadSampleError, match="does not exist"):
        model.segment(missing, "sky; sea")
    left_out = []
    results = model.segment_batch(
        [missing, photo], "sky; sea", on_error=lambda *found: left_out.append(found)
    )
    assert [r.source for r in results] == [str(photo)]
    assert left_out[0][0] == str(missing)


def test_the_command_line_takes_regions_and_pruning(tmp_path, files, monkeypatch):
    from itaclip.commands import main

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (W, H), "blue").save("photo.png")
    (tmp_path / "photo_map.png").write_bytes((tmp_path / "a.png").read_bytes())
    regions = f"files,folder={tmp_path},suffix=_map.png,rule=mean"
    main(["segment", "photo.png", "--model", "storybook-tiny", "--classes", "sky; sea",
          "--regions", regions, "--class-pruning", "presence", "--out", "o.png"])  # fmt: skip
    assert (tmp_path / "o.png").is_file()
    with pytest.raises(InputError, match=r"regions.source: expected one of"):
        main(["segment", "photo.png", "--model", "storybook-tiny", "--classes", "sky",
              "--regions", "magic"])  # fmt: skip
