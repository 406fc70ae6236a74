"""Region maps, what they make of labels and scores, and their sources."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from itaclip.errors import BadSampleError, InputError
from itaclip.regions import Picture, parse_regions, pool, read_region_map, resize_map, vote

H, W, C = 13, 17, 5


def voted_slowly(labels, regions):
    """METHODS3 section 4, word for word."""
    result = labels.clone()
    for region in set(regions.flatten().tolist()) - {0}:
        inside = regions == region
        counts = Counter(labels[inside].tolist())
        most = max(counts.values())
        result[inside] = min(label for label, count in counts.items() if count == most)
    return result


def pooled_slowly(scores, regions):
    result = scores.clone()
    for region in set(regions.flatten().tolist()) - {0}:
        inside = regions == region
        result[inside] = scores[inside].double().mean(0).float()
    return result


@pytest.mark.parametrize("highest", [0, 1, 2, 40])
def test_vote_takes_the_mode_and_leaves_region_0(highest):
    generator = torch.Generator().manual_seed(highest)
    labels = torch.randint(0, C, (H, W), generator=generator)
    regions = 1000 * torch.randint(0, highest + 1, (H, W), generator=generator)
    assert torch.equal(vote(labels, regions), voted_slowly(labels, regions))


def test_vote_takes_the_smallest_of_equals():
    labels = torch.tensor([[3, 1, 3, 1]])
    assert vote(labels, torch.tensor([[7, 7, 7, 7]])).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("highest", [0, 1, 2, 40])
def test_mean_pools_the_scores_of_each_region_but_0(highest):
    generator = torch.Generator().manual_seed(highest)
    scores = torch.rand(H, W, C, generator=generator)
    regions = 1000 * torch.randint(0, highest + 1, (H, W), generator=generator)
    assert torch.allclose(pool(scores.clone(), regions), pooled_slowly(scores, regions), atol=1e-6)


def test_mean_pools_a_map_without_region_0_too():
    scores = torch.rand(H, W, C)
    regions = torch.arange(W).expand(H, W) + 1
    assert torch.allclose(pool(scores.clone(), regions), pooled_slowly(scores, regions), atol=1e-6)


def test_resizing_a_map_takes_the_nearest():
    regions = torch.arange(6).view(2, 3)
    assert resize_map(regions, (4, 6)).tolist() == [
        [0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2], [3, 3, 4, 4, 5, 5], [3, 3, 4, 4, 5, 5]]  # fmt: skip
    assert resize_map(regions, (1, 3)).tolist() == [[3, 4, 5]]


# ---- files --------------------------------------------------------------------------------------


def picture(path=None, size=(H, W), pixels=None):
    return Picture(size, path, (lambda: pixels) if pixels is not None else pytest.fail)


@pytest.mark.parametrize("suffix", [".png", "_r.npy"])
def test_files_give_the_integers_beside_the_picture(tmp_path, suffix):
    regions = np.arange(H * W).reshape(H, W) % 400
    target = tmp_path / f"cat{suffix}"
    if suffix == ".png":
        Image.fromarray(regions.astype(np.uint16)).save(target)
    else:
        np.save(target, regions.astype(np.int32))
    source = parse_regions(dict(source="files", folder=str(tmp_path), suffix=suffix))
    assert np.array_equal(source.map(picture("photos/cat.jpg")).numpy(), regions)
    halved = source.map(picture("photos/cat.jpg"), (6, 8))
    assert halved.shape == (6, 8) and halved.dtype == torch.int64


def test_root_keeps_the_path_below_it(tmp_path):
    (tmp_path / "maps" / "b").mkdir(parents=True)
    np.save(tmp_path / "maps" / "b" / "cat.npy", np.ones((H, W), np.uint8))
    keys = dict(source="files", folder=str(tmp_path / "maps"), suffix=".npy", root=str(tmp_path))
    assert parse_regions(keys).map(picture(str(tmp_path / "b/cat.jpg"))).eq(1).all()
    with pytest.raises(InputError, match="does not lie below"):
        parse_regions(keys | dict(root=str(tmp_path / "maps"))).map(picture("/else/cat.jpg"))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((H, W + 1), np.uint8), "expected a region map of 13x17"),
        (np.ones((H, W), np.float32), "one integer per pixel"),
        (np.full((H, W), -1), "from 0 .in no region., but it has -1"),
        (np.ones((H, W, 3), np.uint8), "but it has 13x17x3"),
    ],
)
def test_a_bad_map_is_named_in_one_sentence(tmp_path, values, words):
    path = tmp_path / "cat.npy"
    np.save(path, values)
    with pytest.raises(BadSampleError, match=words) as caught:
        read_region_map(path, (H, W))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_missing_damaged_and_coloured_maps_are_named(tmp_path):
    with pytest.raises(BadSampleError, match="does not exist"):
        read_region_map(tmp_path / "none.png", (H, W))
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    for name in ("cut.png", "cut.npy"):
        with pytest.raises(BadSampleError, match="cannot be read"):
            read_region_map(tmp_path / name, (H, W))
    Image.new("RGB", (W, H)).save(tmp_path / "colour.png")
    with pytest.raises(BadSampleError, match="mode RGB"):
        read_region_map(tmp_path / "colour.png", (H, W))


def test_files_need_a_file_name():
    with pytest.raises(InputError, match="this picture has none"):
        parse_regions(dict(source="files", folder="maps")).map(picture())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("slic", "expected None or dict"),
        (dict(source="magic"), "regions.source: expected one of 'files', 'slic', 'sam'"),
        (dict(source="slic", rule="median"), "regions.rule: expected one of vote, mean"),
        (dict(source="slic", rule="sam_refine"), "needs source='sam'"),
        (dict(source="slic", folder="x"), "regions.folder: source 'slic' has no such key"),
        (dict(source="files"), "regions.folder: source 'files' needs it"),
        (dict(source="files", folder="x", suffix=".tif"), "ending in .png or .npy"),
        (dict(source="slic", segments=0), "regions.segments: expected an integer from 1"),
        (dict(source="slic", compactness=-1), "regions.compactness"),
        (dict(source="sam"), "regions.model: source 'sam' needs it"),
        (dict(source="sam", model="x", order="random"), "regions.order"),
        (dict(source="sam", model="x", pred_iou=2), "regions.pred_iou: expected a number"),
        (dict(source="sam", model="x", cache=True), "regions.cache"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(value, words):
    with pytest.raises(InputError, match=words):
        parse_regions(value)


def test_the_key_is_off_by_default():
    assert parse_regions(None) is None
    assert parse_regions(dict(source="slic")).rule == "vote"


# ---- superpixels --------------------------------------------------------------------------------


def test_superpixels_keep_to_edges_and_leave_no_pixel_out():
    pytest.importorskip("skimage")
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 31:] = 255
    found = parse_regions(dict(source="slic", segments=12)).map(
        picture(size=(40, 60), pixels=pixels)
    )
    assert found.min() == 1 and 6 <= len(found.unique()) <= 16
    assert not set(found[:, :31].unique().tolist()) & set(found[:, 31:].unique().tolist())


# ---- SAM ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_sam(tmp_path_factory):
    """Folders of random SAM and SAM 2 models of 64 pixels."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    mask_decoder = dict(hidden_size=32, mlp_dim=32, num_attention_heads=2, num_hidden_layers=1,
                        iou_head_hidden_dim=16, iou_head_depth=2)  # fmt: skip
    prompts = dict(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4,
                   image_embedding_size=4)  # fmt: skip
    vision = dict(hidden_size=32, output_channels=32, num_hidden_layers=1, num_attention_heads=2,
                  image_size=64, patch_size=16, mlp_dim=32, window_size=2, global_attn_indexes=[0],
                  num_pos_feats=16)  # fmt: skip
    parts = dict(vision_config=vision, prompt_encoder_config=prompts)
    config = transformers.SamConfig(**parts, mask_decoder_config=mask_decoder)
    transformers.SamModel(config).save_pretrained(folder / "sam")
    return folder


def test_sam_masks_are_painted_and_kept_on_disk(tiny_sam, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    keys = dict(source="sam", model=str(tiny_sam / "sam"), points_per_side=3, pred_iou=0,
                stability=0, cache=str(tmp_path))  # fmt: skip
    own = picture(size=(45, 61), pixels=pixels)
    found = parse_regions(keys).map(own)
    assert found.shape == (45, 61) and found.min() >= 0
    (kept,) = tmp_path.glob("*.png")
    Image.fromarray(np.full((45, 61), 7, np.uint16)).save(kept)
    assert parse_regions(keys).map(own).eq(7).all()  # from the disk
    other = parse_regions(keys | dict(points_per_side=2))
    assert not other.map(own).eq(7).all()
