"""How the constants of the recipe `clipseg` were chosen: on Storybook's split `train`.

python tools/ablate.py --config configs/cfg_storybook.py --study-file tools/studies/clipseg.py
    --cfg-options test_dataloader.dataset.split=train --out docs/ablations/clipseg
"""

from itaclip.evaluation.grid import Study


def _clipseg(**changes):
    return {"model.attention": dict(recipe="clipseg", **changes)}


_COHERENCE = dict(value_layers=())

STUDIES = {
    "coherence": Study(
        "First module: attention by the coherence of middle blocks",
        {
            "k-k alone": _clipseg(coherence_layers=(), value_layers=()),
            "blocks 3, 4, 5": _clipseg(coherence_layers=(3, 4, 5), **_COHERENCE),
            "blocks 6, 7, 8": _clipseg(**_COHERENCE),
            "blocks 8, 9, 10": _clipseg(coherence_layers=(8, 9, 10), **_COHERENCE),
            "sharpness 3": _clipseg(coherence_sharpness=3.0, **_COHERENCE),
            "sharpness 7": _clipseg(coherence_sharpness=7.0, **_COHERENCE),
            "sharpness 10": _clipseg(coherence_sharpness=10.0, **_COHERENCE),
            "share 0.3": _clipseg(coherence_weight=0.3, **_COHERENCE),
            "share 0.7": _clipseg(coherence_weight=0.7, **_COHERENCE),
        },
        base={"model.pamr": None, "model.aux_text_weight": 0.0},
        row_name="blocks 6, 7, 8, sharpness 5, share ½, but",
    ),
    "values": Study(
        "Second module: values of deep blocks",
        {
            "none": _clipseg(value_layers=()),
            "9, 10, share 0.3": _clipseg(),
            "9, 10, share 0.5": _clipseg(value_weight=0.5),
            "9, 10, share 0.7": _clipseg(value_weight=0.7),
            "10, share 0.3": _clipseg(value_layers=(10,)),
            "8, 9, 10, share 0.3": _clipseg(value_layers=(8, 9, 10)),
        },
        base={"model.pamr": None, "model.aux_text_weight": 0.0},
        row_name="deep blocks",
    ),
    "with_others": Study(
        "The first module with other recipes",
        {
            name: {"model.attention": dict(recipe=name)}
            for name in ("maskclip", "sclip", "clearclip", "naclip", "itaclip")
        },
        {"without": {}, "with": {"model.attention.coherence_layers": (6, 7, 8)}},
        base={"model.pamr": None, "model.aux_text_weight": 0.0},
        row_name="recipe",
        column_name="coherence",
    ),
}
