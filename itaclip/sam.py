"""SAM and SAM 2 through ``transformers``: automatic masks as regions, and Trident's refinement.

Automatic masks (Kirillov et al., ICCV 2023, section 5): one prompt for each point of a grid; of
every point's three masks, those whose predicted IoU and stability are high; boxes that overlap
strongly keep the best mask. Here the picture is taken whole, without crops.

Shapes: H, W pixels; S side of SAM's square input; P prompts; C classes (last).
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .checks import integer, number
from .clip_model.sources import model_folder
from .errors import InputError
from .runtime.files import atomic_write
from .runtime.text_cache import default_folder

if TYPE_CHECKING:
    from .regions import Picture

ORDERS = ("large_last", "small_last")
# SAM's and SAM 2's preprocessing: ImageNet's mean and deviation of RGB from 0 to 1.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_POINTS_AT_ONCE, _MASKS_AT_ONCE = 64, 16
_FORMAT = 1  # raise when the same settings give other maps: earlier entries are then never found


@dataclass(frozen=True)
class SamSource:
    """Automatic masks of SAM or SAM 2, painted into one map; kept on disk.

    Args:
        model: a folder in Hugging Face's layout (config.json and weights), or ``'hf:OWNER/NAME'``.
        points_per_side: of the grid of prompts.
        pred_iou: masks whose predicted IoU is below are dropped.
        stability: so are those whose areas at logits above 1 and above -1 have a lower ratio.
        nms: of two boxes with a higher IoU, the one with the lower predicted IoU is dropped.
        min_area: masks of fewer pixels are dropped.
        order: ``'large_last'``: larger masks are painted over smaller ones (as CorrCLIP does);
            ``'small_last'``: smaller over larger, which keeps parts.
        cache: folder for the maps, keyed by picture and settings; None takes ``regions`` in
            itaclip's cache folder, False keeps none.
        thd: τ_c of ``sam_refine``: classes below take no part (Trident: prob_thd, or 0.05 … 0.2).
        refine_iou: masks of ``sam_refine`` with a lower predicted IoU are dropped.
        refine_area: components of ``sam_refine`` below are left alone, in pixels at half size.
    """

    model: str
    points_per_side: int = 32
    pred_iou: float = 0.88
    stability: float = 0.95
    nms: float = 0.7
    min_area: int = 0
    order: str = "large_last"
    cache: str | Path | Literal[False] | None = None
    thd: float = 0.2
    refine_iou: float = 0.8
    refine_area: int = 225
    _loaded: list = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, str | Path) or not str(self.model):
            raise InputError(f"regions.model: expected SAM's folder, but got {self.model!r}.")
        for name in ("points_per_side", "min_area", "refine_area"):
            low = 1 if name == "points_per_side" else 0
            integer(getattr(self, name), f"regions.{name}", low)
        for name in ("pred_iou", "stability", "nms", "thd", "refine_iou"):
            number(getattr(self, name), f"regions.{name}", 0, 1)
        if self.order not in ORDERS:
            raise InputError(
                f"regions.order: expected one of {', '.join(ORDERS)}, but got {self.order!r}."
            )
        if self.cache is True or not isinstance(self.cache, str | Path | bool | None):
            raise InputError(
                f"regions.cache: expected a folder, None or False, but got {self.cache!r}."
            )

    def sam(self, device: torch.device) -> "Sam":
        """The model on a device; read at the first use."""
        if not self._loaded:
            self._loaded.append(Sam(self.model))
        return self._loaded[0].to(device)

    def __call__(self, picture: "Picture") -> np.ndarray:
        """The map of a picture: (H, W) int64, 0 where no mask lies."""
        pixels = picture.pixels()
        path = self._cached(pixels)
        if path is not None and path.is_file():
            try:
                with Image.open(path) as kept:
                    found = np.asarray(kept).astype(np.int64)
                if found.shape == pixels.shape[:2]:
                    return found
            except (OSError, SyntaxError, ValueError):
                pass  # damaged: made anew
        masks = self.sam(picture.device).automatic_masks(pixels, self)
        found = paint(masks, pixels.shape[:2], self.order)
        if path is not None:
            with atomic_write(path) as aside:
                Image.fromarray(found.astype(np.uint16)).save(aside, format="PNG")
        return found

    def _cached(self, pixels: np.ndarray) -> Path | None:
        if self.cache is False:
            return None
        folder = default_folder() / "regions" if self.cache is None else Path(self.cache)
        settings = {k: v for k, v in asdict(self).items() if k not in ("cache", "_loaded")}
        for key in ("thd", "refine_iou", "refine_area"):
            del settings[key]
        state = [_FORMAT, settings, pixels.shape, weights_state(str(self.model))]
        digest = hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode())
        digest.update(np.ascontiguousarray(pixels).tobytes())
        return folder.expanduser() / f"{digest.hexdigest()}.png"


def paint(masks: np.ndarray, size: tuple[int, int], order: str) -> np.ndarray:
    """Masks (P, H, W) bool as one map (H, W) int64: mask i is region i + 1."""
    painted = np.zeros(size, dtype=np.int64)
    areas = masks.reshape(len(masks), -1).sum(1)
    turn = np.argsort(areas if order == "large_last" else -areas, kind="stable")
    for index in turn:
        painted[masks[index]] = index + 1
    return painted


def weights_state(model: str) -> list:
    """What tells a folder's weights from others: names, sizes and times of its files."""
    folder = Path(model).expanduser()
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def need_transformers(what: str) -> None:
    """Raises InputError where ``transformers`` is missing."""
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"{what} needs transformers; run pip install 'itaclip[regions]'.")


class Sam:
    """SAM or SAM 2, with the preprocessing of each.

    Args:
        model: a folder in Hugging Face's layout, or ``'hf:OWNER/NAME'``.

    Raises:
        InputError: no such folder, damaged weights, or another kind of model.
    """

    def __init__(self, model: str) -> None:
        need_transformers("regions: SAM")
        from transformers import AutoConfig, Sam2Model, SamModel

        folder = model_folder(model, "regions.model")
        if not (folder / "config.json").is_file():
            raise InputError(f"regions.model: expected SAM's config.json in {folder}; add it.")
        try:
            kind = AutoConfig.from_pretrained(folder).model_type
            build = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}.get(kind)
            if build is None:
                raise InputError(
                    f"regions.model: expected SAM or SAM 2, but {folder} holds a {kind!r} model."
                )
            self.net = build.from_pretrained(folder, dtype=torch.float32).eval()
        except InputError:
            raise
        except Exception as error:  # transformers raises many kinds at damaged files
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(f"regions.model: {folder} cannot be read ({reason}).") from error
        self.net.requires_grad_(False)
        self.second = build is Sam2Model
        self.side = self.net.config.prompt_encoder_config.image_size
        prompt = self.net.config.prompt_encoder_config
        self.mask_side = 4 * prompt.image_size // prompt.patch_size

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: torch.device) -> "Sam":
        self.net.to(device)
        return self

    def valid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H', W') of a picture (H, W) within SAM's square; SAM 2 stretches it to the whole."""
        if self.second:
            return self.side, self.side
        scale = self.side / max(size)
        height, width = (max(1, int(length * scale + 0.5)) for length in size)
        return height, width

    @torch.no_grad()
    def embed(self, pixels: np.ndarray) -> Any:
        """What the decoder needs of a picture (H, W, 3) uint8 RGB."""
        image = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        image = image.permute(2, 0, 1)[None].float() / 255
        height, width = self.valid(pixels.shape[:2])
        image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (_MEAN, _STD))
        image = F.pad((image - mean) / std, (0, self.side - width, 0, self.side - height))
        return self.net.get_image_embeddings(image)

    @torch.no_grad()
    def decode(
        self, embedding: Any, several: bool = True, **prompts: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mask logits (P, M, s, s) on the decoder's grid and predicted IoUs (P, M).

        Args:
            embedding: of :meth:`embed`.
            several: three masks for a prompt instead of one.
            prompts: ``input_points`` (1, P, n, 2) and ``input_boxes`` (1, P, 4) as (x, y) in SAM's
                square, ``input_masks``.
        """
        found = self.net(image_embeddings=embedding, multimask_output=several, **prompts)
        return found.pred_masks[0], found.iou_scores[0]

    def at_size(self, masks: Tensor, size: tuple[int, int]) -> Tensor:
        """Mask logits (P, s, s) at a picture's (or any proportional) size: (P, H, W)."""
        if self.second:
            return F.interpolate(masks[:, None], size=tuple(size), mode="bilinear")[:, 0]
        height, width = self.valid(size)
        parts = []
        for part in masks.split(_MASKS_AT_ONCE):  # of side S each
            square = F.interpolate(part[:, None], size=(self.side, self.side), mode="bilinear")
            own = square[..., :height, :width]
            parts.append(F.interpolate(own, size=tuple(size), mode="bilinear")[:, 0])
        return torch.cat(parts)

    def automatic_masks(self, pixels: np.ndarray, keys: SamSource) -> np.ndarray:
        """Masks (P, H, W) bool of everything, the best first."""
        size = pixels.shape[:2]
        embedding = self.embed(pixels)
        masks, scores = [], []
        for points in _grid(keys.points_per_side, self.valid(size)):
            logits, iou = self.decode(embedding, input_points=points[None, :, None].to(self.device))
            logits, iou = logits.flatten(0, 1), iou.flatten()
            keep = iou >= keys.pred_iou
            logits, iou = logits[keep], iou[keep]
            if not len(iou):
                continue
            large = self.at_size(logits, size)
            sure, loose = ((large > t).flatten(1).sum(1) for t in (1, -1))
            found = large > 0
            keep = (sure >= keys.stability * loose) & (found.flatten(1).sum(1) > 0)
            keep &= found.flatten(1).sum(1) >= keys.min_area
            masks.append(found[keep].cpu())
            scores.append(iou[keep].cpu())
        if not masks:
            return np.zeros((0, *size), dtype=bool)
        found, iou = torch.cat(masks), torch.cat(scores)
        order = torch.argsort(-iou, stable=True)
        found = found[order]
        return found[suppress(boxes_of(found), keys.nms)].numpy()


def _grid(side: int, valid: tuple[int, int]) -> Iterator[Tensor]:
    """Points (P, 2) as (x, y) in SAM's square, at the middles of side × side fields."""
    height, width = valid
    middle = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(middle * height, middle * width, indexing="ij")
    yield from torch.stack([x.flatten(), y.flatten()], dim=1).split(_POINTS_AT_ONCE)


def boxes_of(masks: Tensor) -> Tensor:
    """Boxes (P, 4) as (left, top, right + 1, bottom + 1) of masks (P, H, W), none empty."""

    def span(hit: Tensor) -> tuple[Tensor, Tensor]:  # (P, n)
        first = hit.int().argmax(1)
        return first, hit.shape[1] - hit.flip(1).int().argmax(1)

    (top, bottom), (left, right) = span(masks.any(2)), span(masks.any(1))
    return torch.stack([left, top, right, bottom], dim=1)


def suppress(boxes: Tensor, limit: float) -> Tensor:
    """Which boxes (P, 4) stay, best first: none has an IoU above ``limit`` with a better one."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low).clamp(min=0).prod(-1).double()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(-1).double()
    over = common > limit * (areas[:, None] + areas[None] - common)
    keep = torch.ones(len(boxes), dtype=torch.bool)
    for index in range(1, len(boxes)):
        keep[index] = not (over[index, :index] & keep[:index]).any()
    return keep


# ---- Trident's refinement -----------------------------------------------------------------------


def sam_refine(scores: Tensor, labels: Tensor, pixels: np.ndarray, source: SamSource) -> Tensor:
    """SAM's decoder redraws each connected piece of each class (Trident, ICCV 2025).

    At half size: every 8-connected piece, of ``refine_area`` pixels at least, of every class that
    reaches τ_c becomes a prompt of its box, its surest point and the class's probabilities as a
    mask. Masks with a predicted IoU above ``refine_iou`` are kept:

        P_k = max over class k's masks m of sigmoid(logits_m) · prob_k, and 0 outside them

    A pixel takes the class of the largest P; where all are 0, its label stays.

    Args:
        scores: (H, W, C) in [0, 1].
        labels: (H, W) int64.
        pixels: (H', W', 3) uint8 RGB.
        source: names SAM, τ_c, ``refine_iou`` and ``refine_area``.

    Returns:
        (H, W) int64.
    """
    height, width = labels.shape
    half = (max(1, height // 2), max(1, width // 2))
    probs = F.interpolate(scores.permute(2, 0, 1)[None], size=half, mode="bilinear")[0]
    best, winner = probs.max(0)
    winner = winner.masked_fill(best < source.thd, -1)
    sam = source.sam(scores.device)
    embedding = None
    redrawn = torch.zeros_like(probs)
    for index in range(len(probs)):
        if float(probs[index].max()) < source.thd:
            continue
        pieces = _pieces((winner == index).cpu().numpy(), source.refine_area)
        for piece in pieces:
            embedding = sam.embed(pixels) if embedding is None else embedding
            logits, iou = sam.decode(
                embedding, several=False, **_prompts(sam, probs[index], piece, source.thd)
            )
            if float(iou[0, 0]) <= source.refine_iou:
                continue
            logits = sam.at_size(logits[:, 0], half)[0]
            own = torch.where(logits > 0, logits.sigmoid() * probs[index], 0.0)
            redrawn[index] = torch.maximum(redrawn[index], own)
    full = F.interpolate(redrawn[None], size=(height, width), mode="bilinear")[0]
    strongest, refined = full.max(0)
    return torch.where(strongest > 0, refined, labels)


def _pieces(mask: np.ndarray, area: int) -> Iterator[np.ndarray]:
    """The 8-connected pieces (H, W) bool of at least ``area`` pixels."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    for index in range(1, count):
        if stats[index, cv2.CC_STAT_AREA] >= max(1, area):
            yield parts == index


def _prompts(sam: Sam, probs: Tensor, piece: np.ndarray, thd: float) -> dict[str, Tensor]:
    """Box, point and mask of one piece, in SAM's square; ``probs`` (H, W) of its class."""
    inside = torch.from_numpy(piece).to(probs.device)
    height, width = sam.valid(probs.shape)
    scale = torch.tensor([width / probs.shape[1], height / probs.shape[0]], device=probs.device)
    row, column = divmod(int(torch.where(inside, probs, -1.0).argmax()), probs.shape[1])
    point = (torch.tensor([column, row], device=probs.device) * scale)[None, None, None]
    box = boxes_of(inside[None])[0].float().view(2, 2) * scale
    prompts = {"input_points": point, "input_boxes": box.reshape(1, 1, 4)}
    s = sam.mask_side
    rows, columns = (max(1, round(length * s / sam.side)) for length in (height, width))
    mask = F.interpolate(probs[None, None], size=(rows, columns), mode="bilinear")
    mask = torch.where(mask > thd, 0.005 * mask, 0.0)
    prompts["input_masks"] = F.pad(mask, (0, s - columns, 0, s - rows))
    return prompts
