"""The plain tower block by block, against its formulas and towers made to collapse."""

import numpy as np
import pytest
import torch
from conftest import bgr_image, random_clip

import itaclip
from itaclip.clip_model import save_clip
from itaclip.predict.depth import depth_figure, depth_of
from itaclip.recipes.patch_tokens import local_outliers, outlier_factors


@pytest.fixture(scope="module")
def weights():
    return random_clip(layers=3).state_dict()


def loaded(state, tmp_path):
    clip = random_clip(layers=3)
    clip.load_state_dict(state)
    path = save_clip(clip, tmp_path / "t")
    return itaclip.load(path, short_side=None, precision="fp32", device="cpu", pamr=None)


@pytest.fixture
def picture():
    return bgr_image(40, 56).permute(1, 2, 0).numpy()


def test_numbers_are_those_of_the_formulas(weights, picture, tmp_path):
    model = loaded(weights, tmp_path)
    depth = depth_of(model, picture)
    h, w = depth.factors.shape
    assert len(depth.entropy) == len(depth.similarity) == len(depth.norm) == 3
    encoder = model.with_recipe("clip").segmentor.image_encoder
    _, inputs = model.read(picture)
    weights_ = encoder.attention_maps(inputs[None])[0, :, 1:].numpy()  # M, P, N
    logs = np.where(weights_ > 0, np.log(np.maximum(weights_, 1e-30)), 0)
    expected = -(weights_ * logs).sum(-1).mean() / np.log(weights_.shape[-1])
    assert depth.entropy[-1] == pytest.approx(expected, abs=1e-5)
    assert depth.sink[-1] == pytest.approx(weights_.mean((0, 1))[1:].max(), abs=1e-6)
    assert depth.cls[-1] == pytest.approx(weights_.mean((0, 1))[0], abs=1e-6)
    patches = encoder.tower(inputs[None]).tokens[0, 1:]
    unit = torch.nn.functional.normalize(patches, dim=-1)
    cosines = (unit @ unit.T)[~torch.eye(len(unit), dtype=bool)]
    assert depth.similarity[-1] == pytest.approx(cosines.mean().item(), abs=1e-5)
    norms = patches.norm(dim=-1)
    assert depth.norm[-1] == pytest.approx((norms.max() / norms.median()).item(), abs=1e-4)
    factors = outlier_factors(patches[None], 30)[0].reshape(h, w).numpy()
    np.testing.assert_allclose(depth.factors, factors, atol=1e-5)
    flagged = local_outliers(patches[None], 30, 0.95)[0].reshape(h, w).numpy()
    assert (depth.outliers == flagged).all() and flagged.any()


def test_a_tower_that_collapses_is_seen(weights, picture, tmp_path):
    """Queries of zero look everywhere alike; one large direction makes all patches alike."""
    state = {key: value.clone() for key, value in weights.items()}
    prefix = "visual.transformer.resblocks.2"
    width = state[f"{prefix}.attn.in_proj_weight"].shape[1]
    state[f"{prefix}.attn.in_proj_weight"][:width] = 0
    state[f"{prefix}.attn.in_proj_bias"][:width] = 0
    state["visual.transformer.resblocks.1.mlp.c_proj.bias"][3] += 1000
    depth = depth_of(loaded(state, tmp_path), picture)
    assert depth.entropy[2] == pytest.approx(1, abs=1e-5)
    assert depth.sink[2] == pytest.approx(1 / (depth.factors.size + 1), abs=1e-5)
    assert depth.similarity[2] > 0.99 > depth.similarity[1]


def test_figure_table_and_command(weights, picture, tmp_path, capsys, monkeypatch):
    from PIL import Image

    from itaclip.commands import main

    monkeypatch.chdir(tmp_path)
    depth = depth_of(loaded(weights, tmp_path), picture)
    assert len(depth.table().splitlines()) == 1 + 3 + 1
    assert depth_figure(depth)._repr_png_()[:4] == b"\x89PNG"
    Image.fromarray(picture).save("a.png")
    main(["inspect", "a.png", "--depth", "--model", "t", "--short-side", "40"])
    out = capsys.readouterr().out
    assert "block  entropy" in out and "outliers that enter block 3" in out
    assert Image.open("depth.png").width > 300
    before = (tmp_path / "a.png").read_bytes()
    for command in (["inspect", "--depth"], ["inspect", "--at", "3,3"]):
        with pytest.raises(itaclip.InputError, match="would replace the picture"):
            main([command[0], "a.png", *command[1:], "--model", "t", "--out", "a.png"])
    with pytest.raises(itaclip.InputError, match="would replace the picture"):
        main(["compare", "a.png", "--classes", "a; b", "--model", "t", "--out", "a.png"])
    with pytest.raises(itaclip.InputError, match="expected --at ROW,COL, or --depth"):
        main(["inspect", "a.png", "--model", "t"])
    assert (tmp_path / "a.png").read_bytes() == before
