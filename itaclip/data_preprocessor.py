"""CLIP's normalisation of images of any sizes, and what is undone of mmseg's changes to them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .clip_model.facts import OPENAI_MEAN, OPENAI_STD, Facts
from .errors import InputError
from .runtime.torch_state import undisturbed

# CLIP's mean and deviation of RGB on the scale 0-255, rounded as in the published configs.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


class CLIPDataPreprocessor(nn.Module):
    """BGR images to CLIP's input, on the device; takes the place of mmseg's preprocessor.

    Args:
        mean, std: of RGB on the scale 0-255; None takes those of the model, else CLIP's.
    """

    @undisturbed()
    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self._given = mean is not None or std is not None
        for name, values in (("mean", mean or MEAN), ("std", std or STD)):
            constant = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, constant, persistent=False)

    def follow(self, facts: Facts) -> None:
        """Takes a model's mean and deviation, unless others were given."""
        if self._given:
            return
        for name, value, openai, rounded in (
            ("mean", facts.mean, OPENAI_MEAN, MEAN),
            ("std", facts.std, OPENAI_STD, STD),
        ):
            scaled = rounded if value == openai else [255 * v for v in value]
            constant = torch.tensor(scaled, dtype=torch.float32).view(-1, 1, 1)
            getattr(self, name).copy_(constant)

    @undisturbed()
    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Normalises a batch.

        Args:
            data: ``inputs``: BGR images (3, H, W) on the scale 0-255, a tensor or a list;
                ``data_samples``: passed on.

        Returns:
            ``inputs``: RGB (B, 3, H, W) where the sizes agree, else a list; and ``data_samples``.
        """
        images = [self.normalised(image) for image in data["inputs"]]
        if len({image.shape for image in images}) == 1:
            images = torch.stack(images)
        return {"inputs": images, "data_samples": data.get("data_samples")}

    def normalised(self, image: Tensor) -> Tensor:
        """A BGR image (3, H, W) as RGB (3, H, W) with mean 0 and deviation 1."""
        if image.ndim != 3 or len(image) != 3:
            raise InputError(
                "expected an image of 3 channels (blue, green, red), but got the shape "
                f"{tuple(image.shape)}; drop transparency with image[..., :3], give grey pictures "
                "three equal channels."
            )
        device = self.mean.device
        if device.type == "cuda" and image.device.type == "cpu":
            image = image.pin_memory()  # so that the copy does not wait
        image = image.to(device, non_blocking=True).flip(0).float()
        return (image - self.mean) / self.std


def without_padding(image: Tensor, meta: Mapping) -> Tensor:
    """Takes off what a data preprocessor padded, so that windows see the image alone.

    Args:
        image: (3, H, W).
        meta: of its sample.
    """
    padding = meta.get("img_padding_size") or meta.get("padding_size")
    if not padding:
        return image
    left, right, top, bottom = padding
    height, width = image.shape[-2:]
    return image[:, top : height - bottom, left : width - right]


def flip_axes(meta: Mapping) -> tuple[int, ...]:
    """The axes of (H, W) along which a test-time augmentation flipped an image.

    Raises:
        InputError: a direction that is none of mmcv's three.
    """
    if not meta.get("flip"):
        return ()
    direction = meta.get("flip_direction") or "horizontal"
    axes = {"horizontal": (1,), "vertical": (0,), "diagonal": (0, 1)}.get(direction)
    if axes is None:
        raise InputError(
            "flip_direction: expected 'horizontal', 'vertical' or 'diagonal', but got "
            f"{direction!r}."
        )
    return axes


def undo_flip(maps: Iterable[Tensor | None], meta: Mapping) -> tuple[Tensor | None, ...]:
    """Brings maps (H, W, …) of a flipped image back into its frame; see :func:`flip_axes`."""
    axes = flip_axes(meta)
    return tuple(None if m is None else m.flip(axes) for m in maps) if axes else tuple(maps)
