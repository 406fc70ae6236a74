"""What a step of the training learns from: captions, loss, schedule, and sums over workers."""

import ctypes
import math
import random
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from itaclip.storybook.captions import Caption, write_caption
from itaclip.storybook.scenes import Scene

from .model import load_by_location


@dataclass(frozen=True)
class Part:
    """A part of the training: from step `first` until the next part's.

    Attributes:
        begin, end: steps between which the learning rate's cosine falls.
        peak: learning rate at `begin`.
        stuff_rate: how often the stuff behind things is named.
        mosaics: two steps of three are on mosaics.
    """

    first: int
    begin: int
    end: int
    peak: float
    stuff_rate: float
    mosaics: bool = False


SCHEDULE = (
    Part(first=0, begin=0, end=3600, peak=8e-4, stuff_rate=0.6),
    Part(first=2600, begin=2600, end=4600, peak=6e-4, stuff_rate=0.6, mosaics=True),
    Part(first=4600, begin=2600, end=7400, peak=6e-4, stuff_rate=0.2, mosaics=True),
)


class Captioner:
    """Captions of training pictures as token rows, in a vocabulary of only what occurs.

    Args:
        scenes: what is to be seen on each picture.
        args: the command line.
    """

    def __init__(self, scenes: list[Scene], args: Namespace):
        templates = load_by_location("mmseg", "utils/get_templates.py").PREDEFINED_TEMPLATES
        self.templates = list(templates["imagenet"])
        self.tokenizer = load_by_location("clip", "simple_tokenizer.py").SimpleTokenizer()
        self.args = args
        rng = random.Random(args.seed)
        tokens = {0, 49406, 49407}
        for scene in scenes:
            caption = self.write(scene, rng, SCHEDULE[0].stuff_rate)
            tokens.update(self.tokenizer.encode(caption.text))
        self.tokens = sorted(tokens)
        self._row = {token: row for row, token in enumerate(self.tokens)}

    def write(self, scene: Scene, rng: random.Random, stuff_rate: float) -> Caption:
        """A caption for a picture."""
        args = self.args
        return write_caption(
            scene, rng, self.templates, args.template_rate, args.definition_rate, stuff_rate
        )

    def rows(self, captions: list[Caption]) -> tuple[Tensor, Tensor]:
        """Rows (B, T), T a multiple of 8, and the end tokens' positions (B,)."""
        texts = [[49406, *self.tokenizer.encode(c.text)[:75], 49407] for c in captions]
        length = -(-max(map(len, texts)) // 8) * 8
        rows = [[self._row[t] for t in text] + [0] * (length - len(text)) for text in texts]
        return torch.tensor(rows), torch.tensor([len(text) - 1 for text in texts])


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, named: list[frozenset]) -> Tensor:
    """CLIP's loss (both directions); captions that name the same classes share the target.

    A caption that names a part of what another caption names is true of the other's picture too:
    such pairs are neither pulled together nor pushed apart.

    Args:
        image, text: (B, E) normalised features.
        scale: the logarithm of the inverse temperature.
        named: B sets of class names, read off the captions.
    """
    order = {key: k for k, key in enumerate(dict.fromkeys(named))}
    keys = list(order)
    part = torch.tensor([[t < i for t in keys] for i in keys])  # caption t says less than caption i
    groups = torch.tensor([order[key] for key in named])
    same = (groups[:, None] == groups[None, :]).float()
    logits = scale.exp() * image @ text.T
    logits = logits.masked_fill(part[groups][:, groups], -1e4)
    target = same / same.sum(1, keepdim=True)
    by_image = -(target * logits.log_softmax(1)).sum(1).mean()
    by_text = -(target * logits.T.log_softmax(1)).sum(1).mean()
    return (by_image + by_text) / 2


def learning_rate(part: Part, step: int, warm_up: int) -> float:
    """Linear warm-up, then half a cosine down to a hundredth."""
    done = step - part.begin
    if done < warm_up:
        return part.peak * (done + 1) / warm_up
    done = min(1.0, (done - warm_up) / (part.end - part.begin - warm_up))
    return part.peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def keep_memory() -> Callable[[], None]:
    """Let glibc keep what is freed for the next step; elsewhere do nothing.

    By default each large tensor is mapped anew, and zeroing fresh pages takes up to 40 % of the
    time. Kept memory is scattered and grows by tens of MB a step; the function that is returned
    gives the surplus back and is called every few steps.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
        trim = libc.malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: trim(0)


def gather(features: Tensor, rank: int, workers: int) -> Tensor:
    """Features of all workers (workers · B, E); only this worker's own carry a gradient."""
    if workers == 1:
        return features
    parts = [torch.empty_like(features) for _ in range(workers)]
    torch.distributed.all_gather(parts, features.detach())
    parts[rank] = features
    return torch.cat(parts)


def sum_gradients(parameters: list[nn.Parameter], scale: nn.Parameter, workers: int) -> None:
    """Add up the workers' gradients; `scale` has its whole gradient in each of them."""
    if workers == 1:
        return
    scale.grad /= workers
    flat = torch.cat([p.grad.flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for parameter, part in zip(
        parameters, flat.split([p.numel() for p in parameters]), strict=True
    ):
        parameter.grad.copy_(part.view_as(parameter))
