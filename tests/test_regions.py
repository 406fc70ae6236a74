"""Region maps, what they make of labels and scores, and their sources."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from itaclip.errors import BadSampleError, InputError
from itaclip.regions import Picture, parse_regions, pool, read_region_map, resize_map, vote
from itaclip.sam import Sam, boxes_of, paint, sam_refine, suppress

H, W, C = 13, 17, 5


def voted_slowly(labels, regions):
    """Pixel sets and counts, word for word."""
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
    backbone = dict(model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1,
                    image_size=[64, 64], blocks_per_stage=[1] * 4, global_attention_blocks=[],
                    embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
                    window_size_per_stage=[4, 4, 4, 2],
                    window_positional_embedding_background_size=[4, 4])  # fmt: skip
    sizes = [[16, 16], [8, 8], [4, 4]]
    vision = dict(backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8],
                  backbone_feature_sizes=sizes, fpn_hidden_size=32)  # fmt: skip
    prompts.pop("image_embedding_size")
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=mask_decoder
    )
    transformers.Sam2Model(config).save_pretrained(folder / "sam2")
    return folder


@pytest.mark.parametrize("name", ["sam", "sam2"])
def test_sam_masks_are_painted_and_kept_on_disk(name, tiny_sam, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (45, 61, 3), dtype=np.uint8)
    keys = dict(source="sam", model=str(tiny_sam / name), points_per_side=3, pred_iou=0,
                stability=0, cache=str(tmp_path))  # fmt: skip
    own = picture(size=(45, 61), pixels=pixels)
    found = parse_regions(keys).map(own)
    assert found.shape == (45, 61) and found.min() >= 0
    (kept,) = tmp_path.glob("*.png")
    Image.fromarray(np.full((45, 61), 7, np.uint16)).save(kept)
    assert parse_regions(keys).map(own).eq(7).all()  # from the disk
    other = parse_regions(keys | dict(points_per_side=2))
    assert not other.map(own).eq(7).all()


def test_what_is_no_sam_is_named(tiny_sam, tmp_path):
    with pytest.raises(InputError, match=r"regions\.model: expected a folder"):
        Sam(str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"expected SAM's config.json"):
        Sam(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match=r"expected SAM or SAM 2, but .* holds a 'clip' model"):
        Sam(str(tmp_path))


def test_painting_order():
    masks = np.zeros((2, 4, 4), bool)
    masks[0, :2, :2] = masks[1, :3, :3] = True
    assert paint(masks, (4, 4), "large_last")[0, 0] == 2
    small = paint(masks, (4, 4), "small_last")
    assert small[0, 0] == 1 and small[2, 2] == 2 and small[3, 3] == 0


def test_suppression_keeps_the_better_of_two_boxes_that_overlap():
    generator = torch.Generator().manual_seed(0)
    low = torch.randint(0, 20, (30, 2), generator=generator)
    boxes = torch.cat([low, low + torch.randint(3, 15, (30, 2), generator=generator)], dim=1)

    def iou(a, b):
        pixels = [{(x, y) for x in range(l, r) for y in range(t, d)} for l, t, r, d in (a, b)]  # noqa: E741
        return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])

    kept = []
    for index in range(30):
        if all(iou(boxes[index].tolist(), boxes[k].tolist()) <= 0.3 for k in kept):
            kept.append(index)
    assert suppress(boxes, 0.3).nonzero().flatten().tolist() == kept and len(kept) < 30
    masks = torch.zeros(1, 9, 9, dtype=torch.bool)
    masks[0, 2:5, 3] = masks[0, 4, 3:8] = True
    assert boxes_of(masks).tolist() == [[3, 2, 8, 5]]


class Redraws:
    """Stands for SAM: its mask is the prompt's own, a little larger; sides of 64 pixels."""

    side, mask_side, second = 64, 16, False

    def __init__(self, iou):
        self.iou, self.prompts = iou, []

    def sam(self, device):
        return self

    def valid(self, size):
        return tuple(64 * length // max(size) for length in size)

    def embed(self, pixels):
        return None

    def decode(self, embedding, several, input_points, input_boxes, input_masks):
        self.prompts.append((input_points, input_boxes, input_masks))
        x0, y0, x1, y1 = input_boxes[0, 0].tolist()
        self.box = [round(v / 4) for v in (x0, y0, x1, y1)]
        return torch.zeros(1, 1, 16, 16), torch.tensor([[self.iou]])

    def at_size(self, masks, size):
        logits = torch.full((1, *size), -5.0)
        left, top, right, bottom = self.box
        logits[0, top : bottom + 1, left : right + 1] = 2.0  # a pixel beyond on two sides
        return logits


@pytest.mark.parametrize("iou", [0.7, 0.9])
def test_refinement_redraws_pieces_whose_mask_is_good(iou):
    """Trident's rule by hand: one square of class 1 on class 0, at half size 16 x 16."""
    scores = torch.zeros(32, 32, 2)
    scores[..., 0] = 0.15  # class 0 stays below τ_c
    scores[8:20, 6:18, 1] = 0.8
    labels = scores.argmax(-1)
    stub = Redraws(iou)
    source = SimpleNamespace(sam=stub.sam, thd=0.2, refine_iou=0.8, refine_area=4)
    refined = sam_refine(scores, labels, np.zeros((32, 32, 3), np.uint8), source)
    (points, boxes, masks) = stub.prompts[0]
    assert len(stub.prompts) == 1 and boxes.tolist() == [[[12, 16, 36, 40]]]
    x, y = points[0, 0, 0].tolist()
    assert 12 <= x < 36 and 16 <= y < 40
    assert masks[0, 0, 5, 4] == pytest.approx(0.005 * 0.8) and masks[0, 0, 0, 0] == 0
    assert torch.equal(refined, labels) == (iou < 0.8) or refined[19, 17] == 1
    if iou > 0.8:  # where P is above 0: the mask, times a probability that is 0 outside the square
        assert refined[8:20, 6:18].eq(1).all()
    source.refine_area = 1000
    stub.prompts.clear()
    assert torch.equal(sam_refine(scores, labels, np.zeros((32, 32, 3)), source), labels)
    assert not stub.prompts


def test_refinement_runs_with_real_decoders(tiny_sam):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    scores = torch.rand(40, 56, 3, generator=torch.Generator().manual_seed(0)).softmax(-1)
    scores[10:30, 10:40] = torch.tensor([0.05, 0.05, 0.9])
    for name in ("sam", "sam2"):
        keys = dict(source="sam", model=str(tiny_sam / name), rule="sam_refine", refine_iou=0,
                    refine_area=9)  # fmt: skip
        labels = scores.argmax(-1)
        refined = parse_regions(keys).relabel(labels, scores, picture(size=(40, 56), pixels=pixels))
        assert refined.shape == labels.shape and refined.dtype == labels.dtype
