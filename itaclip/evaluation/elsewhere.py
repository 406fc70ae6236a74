"""Figures of methods that do not run here: what else they need, and whether that saw the domain.

They are quoted so that a table shows where CLIP alone stands. None of them is trained on the
benchmark's labels unless it says so.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Elsewhere:
    """One row.

    Attributes:
        method: its name.
        needs: networks, banks or training beside CLIP.
        domain: what of the benchmark's own domain, labels or images, was used; empty: nothing.
        source: where the figures were read.
        miou: in the papers' order: VOC21, Context60, COCO-Object, VOC20, Cityscapes, Context59,
            ADE20K, COCO-Stuff.
    """

    method: str
    needs: str
    domain: str
    source: str
    miou: tuple[float | None, ...]


_NACLIP = "NACLIP's paper, Table 1"
_ITACLIP = "ITACLIP's paper, Table 1"
_OWN = "authors' repository"
_NOTES = "secondary notes on the paper"
_STITCH = "table in OV-Stitcher's repository"
_ = None
# fmt: off
ELSEWHERE = (
    Elsewhere("ReCo", "retrieval among unlabelled images, DeiT-SIN", "", _NACLIP,
              (25.1, 19.9, 15.7, 57.7, 21.6, 22.3, 11.2, 14.8)),
    Elsewhere("GroupViT", "a network trained on image-caption pairs", "", _NACLIP,
              (52.3, 18.7, 27.5, 79.7, 18.5, 23.4, 10.4, 15.3)),
    Elsewhere("TCL", "a decoder trained on image-caption pairs", "", _NACLIP,
              (55.0, 30.4, 31.6, 83.2, 24.3, 33.9, 17.1, 22.4)),
    Elsewhere("CLIP-DIY", "an unsupervised object localiser", "", _NACLIP,
              (59.0, _, 30.4)),
    Elsewhere("FOSSIL", "DINO, a bank of synthetic references", "", _NACLIP,
              (_, _, _, _, 23.2, 35.8, 18.8, 24.8)),
    Elsewhere("TagCLIP", "", "", _ITACLIP, (64.8, _, 33.5, _, _, _, _, 18.7)),
    Elsewhere("CaR", "DenseCRF", "", _ITACLIP, (67.6, 30.5, 36.6)),
    Elsewhere("CLIPtrase", "its own crops, 336", "", _OWN,
              (53.04, 30.79, 44.84, 81.2, _, 34.92, 17.04, 24.06)),
    Elsewhere("CLIPer", "", "", _OWN, (62.1, 35.7, 37.5, 85.0, 38.3, 39.6, 20.6, 26.4)),
    Elsewhere("CLIPer", "Stable Diffusion 2.1", "", _OWN,
              (66.5, 38.3, 40.0, 86.0, 38.7, 42.4, 22.0, 28.6)),
    Elsewhere("SFP", "", "", _STITCH, (62.9, 37.2, 37.9, 84.5, 41.1, 39.9, 20.8, 26.4)),
    Elsewhere("LHT-CLIP on ClearCLIP", "", "its constants were tuned on 1000 training images",
              "project page", (63.8, 35.2, 35.6, 85.7, 37.8, 38.8, 19.2, 25.8)),
    Elsewhere("FreeCP on ClearCLIP", "word lists of a language model", "", _NOTES,
              (64.5, 35.7, 36.9, 81.5, 34.4, 39.3, 18.9, 26.1)),
    Elsewhere("DSLO", "Stable Diffusion 2", "", _NOTES,
              (67.8, 38.3, _, _, 43.3, _, 23.0, 28.9)),
    Elsewhere("FSeg-LLaVA", "LLaVA-1.5-7B, SAM ViT-H; no background words", "", _NOTES,
              (68.0, 30.6, 42.0, _, _, _, 16.9, 21.2)),
    Elsewhere("OV-Stitcher", "DINO ViT-B/8, SAM 2.1-L, texts of a language model", "", _OWN,
              (75.7, 43.9, 42.6, 89.8, 48.1, 48.8, 24.7, 31.8)),
    Elsewhere("CorrCLIP, EoMT masks", "MetaCLIP, DINO ViT-B/8, EoMT",
              "EoMT is trained on COCO's labels", _OWN,
              (76.0, 45.4, 46.6, 90.6, 48.0, 50.4, 26.7, 34.5)),
    Elsewhere("CorrCLIPv2, no bank", "C-RADIOv3-L, EntitySeg, DFN", "", _OWN,
              (79.5, 47.0, 52.2, 92.2, 56.0, 53.1, 32.9, 35.4)),
    Elsewhere("CorrCLIPv2", "C-RADIOv3-L, EntitySeg, DFN, a bank of region features",
              "unlabelled images of COCO in the bank", _OWN,
              (82.3, 51.1, 58.0, 93.2, 59.2, 56.8, 36.5, 39.1)),
    Elsewhere("SCI-CLIP", "SAM 2-L, DINOv3, a bank of references",
              "the bank is made from the training splits", "paper",
              (75.9, 46.1, 45.2, _, _, _, 29.8)),
    Elsewhere("VIP", "dino.txt on DINOv3, no CLIP", "", _NOTES,
              (73.2, _, 52.4, _, 55.7, _, 29.1)),
    Elsewhere("ConceptBank", "SAM 3", "labelled support images of the benchmark", _NOTES,
              (87.1, 56.5, 67.9, _, 75.1, 63.0, 43.3, 46.4)),
)
# fmt: on
