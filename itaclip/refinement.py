"""PAMR, pixel-adaptive mask refinement (Araslanov and Roth, CVPR 2020, eq. 4-6).

One iteration is a weighted gather: pixel p becomes Σ_n w[p, n] · x[n] over its neighbours n, which
is ``torch.nn.functional.embedding_bag`` with per-sample weights. The weights depend on the image
alone and serve all queries and iterations.

The picture is swept in bands of rows, no lower than the farthest neighbour is away, so that a band
needs the bands above and below it and no others. Iterations follow each other closely, and a band's
weights are dropped after its last one: neither a second map nor all weights are ever held.

Shapes: H, W pixels; Q queries (last); P = 8 neighbours · number of dilations.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import integer, is_integer
from .errors import InputError
from .runtime.batches import trim_memory
from .runtime.stages import stage

# Elements of one gather: on a CPU what caches hold, on a GPU what makes a launch worth while.
_TILE_ELEMENTS = dict(cpu=1 << 20, cuda=1 << 26)
# Elements of bands waiting to be written in one sweep, which bounds the iterations it makes.
_WAITING_ELEMENTS = dict(cpu=1 << 23, cuda=1 << 28)
# Logits that are not refined come in strips of this many elements (64 MB).
_STRIP_ELEMENTS = 1 << 24
_OFFSETS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
_NEIGHBOURS = tuple(offset for offset in _OFFSETS if offset != (0, 0))


class PAMR(NamedTuple):
    """The ``pamr`` key, validated: what :func:`pamr` takes after the guide."""

    num_iter: int = 10
    dilations: tuple[int, ...] = (8, 16)


def parse_pamr(pamr: Mapping | PAMR | None) -> PAMR | None:
    """Validates the ``pamr`` key: None, or ``dict(num_iter=…, dilations=…)``.

    Raises:
        InputError: unknown keys or values out of range.
    """
    if pamr is None:
        return None
    given = pamr._asdict() if isinstance(pamr, PAMR) else pamr
    if not isinstance(given, Mapping) or set(given) - set(PAMR._fields):
        raise InputError(
            f"pamr: expected None or dict(num_iter=10, dilations=(8, 16)), but got {pamr!r}."
        )
    num_iter = integer(given.get("num_iter", 10), "pamr.num_iter")
    dilations = given.get("dilations", (8, 16))
    whole = isinstance(dilations, Iterable) and not isinstance(dilations, str)
    dilations = tuple(dilations) if whole else ()
    if not dilations or not all(is_integer(d, 1) for d in dilations):
        raise InputError(
            "pamr.dilations: expected positive integers, but got "
            f"{given.get('dilations', (8, 16))!r}."
        )
    return PAMR(num_iter, tuple(map(int, dilations)))


def refine(logits: Tensor, image: Tensor, settings: PAMR | None) -> Tensor:
    """Logits refined along the edges of an image.

    Args:
        logits: (H, W, Q); overwritten.
        image: (3, H', W'), CLIP-normalised.
        settings: None leaves the logits as they are.

    Returns:
        (H, W, Q).
    """
    if settings is None:
        return logits
    refined = pamr(logits, _guide(image, tuple(logits.shape[:2])), *settings)
    trim_memory(refined.numel())
    return refined


def refine_strips(
    strip: Callable[[int, int], Tensor],
    shape: tuple[int, int, int],
    image: Tensor,
    settings: PAMR | None,
) -> Iterator[Tensor]:
    """:func:`refine` for logits that are never held as a whole.

    Args:
        strip: gives the logits (last - first, W, Q) of rows ``first`` to ``last - 1``; called for
            one strip after the other, from top to bottom.
        shape: (H, W, Q) of all.
        image: (3, H', W'), CLIP-normalised.
        settings: None leaves the logits as they are.

    Yields:
        (rows, W, Q), from top to bottom.
    """
    height, width, queries = shape
    if settings is not None:
        yield from pamr_strips(strip, queries, _guide(image, (height, width)), *settings)
        return
    step = max(1, _STRIP_ELEMENTS // (width * queries))
    for top in range(0, height, step):
        yield strip(top, min(top + step, height))


def _guide(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image (3, H', W') at the output's size (3, H, W)."""
    with stage("refinement"):
        return F.interpolate(image[None].float(), size=size, mode="bilinear")[0]


def pamr(scores: Tensor, guide: Tensor, num_iter: int, dilations: Sequence[int]) -> Tensor:
    """Refines score maps along the edges of an image, in place.

    Beside the scores, bands of about 80 MB (1.5 GB on a GPU) are held, or, where this is more,
    three bands of ``max(dilations)`` rows; for scores that are not contiguous, a copy as well.

    Args:
        scores: (H, W, Q) logits.
        guide: (3, H, W) image, in the network's normalisation.
        num_iter: iterations.
        dilations: distances of the neighbours in pixels.

    Returns:
        ``scores``, overwritten.
    """
    if num_iter == 0 or scores.numel() == 0:
        return scores
    work = scores.contiguous()
    with stage("refinement"):
        bands = _Bands(guide, dilations, work.shape[-1])
        limit = _per_device(_WAITING_ELEMENTS, work.device)
        depth = max(1, limit // (bands.rows * work[0].numel()))
        for start in range(0, num_iter, depth):
            _sweep(work, bands, min(depth, num_iter - start))
    return scores if work is scores else scores.copy_(work)


def _sweep(scores: Tensor, bands: "_Bands", iterations: int) -> None:
    """Some iterations from top to bottom, in place.

    A band's new values wait until the next band is computed, which needs the old ones. Each
    iteration stays two bands behind the one before, where all that it needs has been written.
    """
    waiting: list[list] = [[] for _ in range(iterations)]
    for step in range(len(bands) + 2 * iterations - 1):
        for iteration in range(iterations):
            band = step - 2 * iteration
            if 0 <= band <= len(bands):
                above, waiting[iteration] = iter(waiting[iteration]), []
                for tile in bands.refined(scores, band) if band < len(bands) else ():
                    waiting[iteration].append(tile)
                    # What is two tiles to the left is out of reach of the next one.
                    if len(waiting[iteration]) > 1 and bands.columns >= bands.reach:
                        _write(scores, bands, band - 1, itertools.islice(above, 1))
                _write(scores, bands, band - 1, above)
        bands.forget(step - 2 * (iterations - 1))


def _write(scores: Tensor, bands: "_Bands", band: int, tiles: Iterable) -> None:
    for columns, values in tiles:
        scores[slice(*bands[band]), columns] = values


def pamr_strips(
    strip: Callable[[int, int], Tensor],
    queries: int,
    guide: Tensor,
    num_iter: int,
    dilations: Sequence[int],
) -> Iterator[Tensor]:
    """:func:`pamr` for scores that are never held as a whole: strips of rows in, strips out.

    Every row is refined once. Three bands are held for each iteration, of ``max(dilations)`` rows
    or, for small maps, of as many more as have 4 MB (256 MB on a GPU).

    Args:
        strip: gives the logits (last - first, W, Q) of rows ``first`` to ``last - 1``; called for
            one strip after the other, from top to bottom.
        queries: Q.
        guide: (3, H, W).

    Yields:
        (rows, W, Q), from top to bottom.
    """
    bands = _Bands(guide, dilations, queries)
    rings: list[Tensor] = []
    for step in range(len(bands) + num_iter):
        if step < len(bands):
            made = strip(*bands[step])
            if num_iter == 0:
                yield made
                continue
            if not rings:
                held = (min(3 * bands.rows, bands.height), bands.width, queries)
                rings = [made.new_empty(held) for _ in range(num_iter)]
            rings[0][bands.slot(step)] = made
            del made
        for iteration in range(num_iter):
            band = step - 1 - iteration
            if not 0 <= band < len(bands):
                continue
            with stage("refinement"):
                if iteration + 1 < num_iter:
                    target = rings[iteration + 1][bands.slot(band)]
                else:
                    top, bottom = bands[band]
                    target = rings[0].new_empty(bottom - top, bands.width, queries)
                for columns, values in bands.refined(rings[iteration], band):
                    target[:, columns] = values
            if iteration + 1 == num_iter:
                yield target
        bands.forget(step - num_iter)


class _Bands:
    """A picture's bands of rows, and for each the neighbours' weights and places.

    Attributes:
        rows: rows of each band but the last, a multiple of the largest dilation.
    """

    def __init__(self, guide: Tensor, dilations: Sequence[int], queries: int) -> None:
        self.guide, self.dilations, self.reach = guide, dilations, max(dilations)
        self.height, self.width = guide.shape[1:]
        elements = _per_device(_TILE_ELEMENTS, guide.device)
        self.rows = self.reach * max(1, elements // (self.reach * self.width * queries))
        self.rows = min(self.rows, self.reach * -(-self.height // self.reach))
        tiles = -(-self.width // max(1, elements // (self.rows * queries)))
        self.columns = -(-self.width // tiles)
        self._weights: dict[int, list[Tensor]] = {}
        self._places: dict[tuple, list[Tensor]] = {}

    def __len__(self) -> int:
        return -(-self.height // self.rows)

    def __getitem__(self, band: int) -> tuple[int, int]:
        """First row and last row + 1."""
        return band * self.rows, min((band + 1) * self.rows, self.height)

    def slot(self, band: int) -> slice:
        """The rows of a ring of three bands that hold this one."""
        top, bottom = self[band]
        start = top % (3 * self.rows)
        return slice(start, start + bottom - top)

    def forget(self, band: int) -> None:
        """Drops a band's weights."""
        self._weights.pop(band, None)

    def refined(self, scores: Tensor, band: int) -> Iterator[tuple[slice, Tensor]]:
        """One iteration of a band, in tiles: columns and new values (rows, columns, Q).

        Args:
            scores: (H, W, Q), or the ring of three bands in which it and its neighbours are.
        """
        top, bottom = self[band]
        if len(scores) == self.height:
            origin = max(0, top - self.reach)
            scores = scores[origin : bottom + self.reach]
        else:
            origin = 0
        if band not in self._weights:
            weights = pamr_weights(self.guide, self.dilations, (top, bottom)).to(scores.dtype)
            weights = weights.view(bottom - top, self.width, -1).split(self.columns, dim=1)
            self._weights[band] = [tile.flatten(0, 1).contiguous() for tile in weights]
        table, left = scores.flatten(0, 1), 0
        for places, weights in zip(
            self._neighbours(band, origin, len(scores)), self._weights[band], strict=True
        ):
            values = F.embedding_bag(places, table, mode="sum", per_sample_weights=weights)
            values = values.view(bottom - top, -1, values.shape[-1])
            yield slice(left, left + values.shape[1]), values
            left += values.shape[1]

    def _neighbours(self, band: int, origin: int, modulus: int) -> list[Tensor]:
        """Flat places of the neighbours, [(pixels, P)] tile by tile; borders are replicated.

        Picture row y is row ``(y - origin) % modulus`` of the table. Bands that are no nearer to
        the border than their neighbours reach share their places.
        """
        top, bottom = self[band]
        first = (top - origin) % modulus
        near = (min(top, self.reach), min(self.height - bottom, self.reach))
        key = (first, bottom - top, modulus, near)
        if key not in self._places:
            device = self.guide.device
            rows = torch.arange(top, bottom, dtype=torch.int32, device=device)
            columns = torch.arange(self.width, dtype=torch.int32, device=device)
            offsets = _spread(_NEIGHBOURS, self.dilations)
            places = rows.new_empty(bottom - top, self.width, len(offsets))
            for n, (dy, dx) in enumerate(offsets):
                row = ((rows + dy).clamp_(0, self.height - 1) - origin) % modulus
                places[..., n] = (row * self.width)[:, None] + (columns + dx).clamp_(
                    0, self.width - 1
                )
            tiles = places.split(self.columns, dim=1)
            self._places[key] = [tile.flatten(0, 1).contiguous() for tile in tiles]
        return self._places[key]


def pamr_weights(
    guide: Tensor, dilations: Sequence[int], rows: tuple[int, int] | None = None
) -> Tensor:
    """Affinity of every pixel with its neighbours.

    w[p] = softmax over n of mean over colours of -|x_p - x_n| / (1e-8 + 0.1 · std_p), where std_p
    (n - 1) is taken over the 3×3 windows of all dilations, their centres included; borders are
    replicated.

    Args:
        guide: (3, H, W).
        rows: first row and last row + 1; None takes all.

    Returns:
        (rows·W, P), rows sum to 1, neighbours in the order dilation, row, column.
    """
    colours, height, width = guide.shape
    radius = max(dilations)
    top, bottom = rows or (0, height)
    first, last = max(0, top - radius), min(height, bottom + radius)
    padding = (radius, radius, radius - (top - first), radius - (last - bottom))
    padded = F.pad(guide[None, :, first:last].float(), padding, mode="replicate")[0]

    def shifted(dy: int, dx: int) -> Tensor:
        own = padded[:, radius + dy : radius + dy + bottom - top]
        return own[:, :, radius + dx : radius + dx + width]

    window = _spread(_OFFSETS, dilations)
    mean = torch.zeros_like(shifted(0, 0))
    for offset in window:
        mean += shifted(*offset)
    mean /= len(window)
    variance = torch.zeros_like(mean)
    for offset in window:
        difference = shifted(*offset) - mean
        variance.addcmul_(difference, difference)
    inverse = 1 / (1e-8 + 0.1 * (variance / (len(window) - 1)).sqrt())  # 3, rows, W

    neighbours = _spread(_NEIGHBOURS, dilations)
    weights = padded.new_empty(bottom - top, width, len(neighbours))
    for n, offset in enumerate(neighbours):
        difference = (shifted(*offset) - shifted(0, 0)).abs_()
        weights[..., n] = difference.mul_(inverse).sum(0).div_(-colours)
    return weights.softmax(dim=-1).flatten(0, 1)


def _spread(offsets: Sequence[tuple[int, int]], dilations: Sequence[int]) -> list[tuple[int, int]]:
    """The offsets at every dilation."""
    return [(d * dy, d * dx) for d in dilations for dy, dx in offsets]


def _per_device(limits: Mapping[str, int], device: torch.device) -> int:
    return limits["cuda" if device.type == "cuda" else "cpu"]
