"""What the papers' ablations measured: mIoU in percent, as data.

A column of a published table is a :class:`Series`: row of the study → figure. Where a study has
several columns (such as without and with PAMR), the figures are in the columns' order; None = the
paper has no such figure. OpenAI's ViT-B/16 throughout, but for the studies of backbones.
"""

from collections.abc import Iterator
from dataclasses import dataclass

Figures = float | tuple[float | None, ...]


@dataclass(frozen=True)
class Series:
    """One column of a published table.

    Attributes:
        source: paper and number of the table.
        data: the data set, by its name in :data:`itaclip.evaluation.published.BENCHMARKS`.
        figures: row of the study → mIoU in percent.
        setting: what else the table held fixed, where it says so.
    """

    source: str
    data: str
    figures: dict[str, Figures]
    setting: str


def _table(
    source: str, data: tuple[str, ...], rows: dict[str, tuple], setting: str
) -> Iterator[Series]:
    """One series per data set, from rows of figures in the data sets' order."""
    for index, name in enumerate(data):
        yield Series(source, name, {row: line[index] for row, line in rows.items()}, setting)


_ITACLIP_SETS = ("COCO-Stuff", "COCO-Object", "VOC21", "Context60", "Cityscapes")
_NACLIP_SETS = ("VOC21", "Context60", "COCO-Object", "VOC20", "Cityscapes", "Context59", "ADE20K",
                "COCO-Stuff")  # fmt: skip


def _pairs(without: tuple[float, ...], with_pamr: tuple[float, ...]) -> tuple:
    return tuple(zip(without, with_pamr, strict=True))


_CLIP_PAIRS = _pairs(
    (18.6, 7.8, 6.5, 49.1, 6.7, 11.2, 3.2, 7.2), (18.5, 7.5, 5.8, 54.3, 7.2, 11.7, 3.4, 7.6)
)

# fmt: off
PUBLISHED: dict[str, tuple[Series, ...]] = {
    "terms": (
        Series("ITACLIP, Table 2", "VOC21", {
            "q-k": 19.0, "q-q": 58.9, "k-k": 52.2, "v-v": 57.7, "q-q + k-k": 67.9,
            "q-q + v-v": 64.9, "q-q + k-k + v-v": 66.4,
        }, "all modules"),
    ),
    "feed_forward": tuple(_table("ITACLIP, Table 3", _ITACLIP_SETS, {
        "kept": (26.3, 36.9, 66.3, 36.3, 39.4),
        "removed": (27.0, 37.7, 67.9, 37.5, 40.2),
    }, "all modules")),
    "middle_layers": (
        Series("ITACLIP, Table 4", "VOC21", {
            "none": 65.0, "7": 65.4, "8": 65.5, "7, 8": 65.5, "7, 8, 10": 65.6,
            "7, 8, 9, 10": 65.5,
        }, "without PAMR"),
    ),
    "pamr": tuple(_table("ITACLIP, Table 5", _ITACLIP_SETS, {
        "without": (26.3, 36.4, 65.6, 36.0, 39.2),
        "with": (27.0, 37.7, 67.9, 37.5, 40.2),
    }, "all modules")),
    "modules": tuple(_table("ITACLIP, Table 6", ("Context60", "COCO-Stuff"), {
        "none": (34.3, 24.5),
        "+ text": (34.6, 24.8),
        "+ text + image engineering": (35.4, 25.4),
    }, "without PAMR")),
    "stride": tuple(_table("ITACLIP, Table 7", _ITACLIP_SETS, {
        "crop": (25.3, 36.7, 66.1, 36.9, 37.7),
        "crop / 2": (26.6, 37.4, 67.1, 37.4, 39.7),
        "crop / 4": (26.9, 37.7, 67.9, 37.5, 40.2),
        "crop / 8": (27.0, 37.7, 67.9, 37.5, 40.2),
    }, "all modules, crop 224")),
    "weights": (  # columns α = 0.1, 0.15, 0.2
        Series("ITACLIP, Table 8", "Context60", {
            "0.5": (35.8, 35.8, None), "0.6": (35.9, 35.9, 35.9), "0.75": (None, 36.0, 35.9),
        }, "without PAMR"),
    ),
    "backbone": (
        Series("ITACLIP, Table 10", "VOC21",
               {"ViT-B/16": 67.9, "ViT-B/32": 56.7, "ViT-L/14": 53.3}, "all modules"),
    ),
    # NACLIP's tables have the columns without and with PAMR. Figure 4, the sweep over σ, is a
    # drawing without numbers, so the study 'sigma' has no published figures.
    "naclip_attention": tuple(_table("NACLIP, Table 3", _NACLIP_SETS, {
        "q-k": _CLIP_PAIRS,
        "N-Only": _pairs((23.0, 11.0, 6.2, 41.9, 19.8, 19.7, 8.2, 11.5),
                         (19.8, 9.4, 4.5, 47.6, 21.8, 22.1, 9.3, 12.6)),
        "GAV": _pairs((38.7, 17.3, 13.1, 62.7, 23.7, 25.7, 10.8, 15.4),
                      (39.1, 17.2, 12.0, 68.6, 26.4, 28.9, 12.2, 17.4)),
        "k-k": _pairs((40.2, 17.4, 13.9, 68.2, 28.1, 27.9, 11.2, 16.7),
                      (39.0, 16.6, 11.7, 72.5, 30.9, 30.6, 12.4, 18.3)),
    }, "residual and feed-forward kept")),
    "naclip_architecture": tuple(_table("NACLIP, Table 4", _NACLIP_SETS, {
        "Vanilla": _CLIP_PAIRS,
        "Reduced": _pairs((37.5, 22.3, 23.2, 81.4, 20.2, 24.9, 11.6, 18.9),
                          (37.6, 22.5, 23.3, 81.7, 20.3, 25.1, 11.6, 19.2)),
    }, "CLIP's own attention, q-k")),
    "naclip_backbone": tuple(_table("NACLIP, Table 2", ("VOC21", "Context59"), {
        "ViT-B/16": (62.9, 38.5), "ViT-B/32": (57.7, 34.9), "ViT-L/14": (59.3, 36.4),
    }, "with PAMR")),
}
# fmt: on
