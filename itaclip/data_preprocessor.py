"""CLIP's normalisation of images, for batches of any sizes."""

from collections.abc import Sequence

import torch
from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

from .clip_model.facts import OPENAI_MEAN, OPENAI_STD, Facts

# CLIP's mean and deviation of RGB on the scale 0-255, rounded as in the published configs.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


@MODELS.register_module()
class CLIPDataPreprocessor(SegDataPreProcessor):
    """mmseg's preprocessor with CLIP's constants; images of one batch may differ in size.

    Inputs are BGR images (3, H, W) on the scale 0-255; outputs are RGB and normalised, as one
    tensor (B, 3, H, W) where the sizes agree, else as a list.
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        """Args: mean, std: of RGB, scale 0-255; None takes those of the model, else CLIP's."""
        self._given = mean is not None or std is not None
        super().__init__(mean=mean or MEAN, std=std or STD, bgr_to_rgb=True)

    def follow(self, facts: Facts) -> None:
        """Takes a model's mean and deviation, unless others were given."""
        if self._given:
            return
        for name, value, openai, rounded in (
            ("mean", facts.mean, OPENAI_MEAN, MEAN),
            ("std", facts.std, OPENAI_STD, STD),
        ):
            value = rounded if value == openai else [255 * v for v in value]
            getattr(self, name).copy_(torch.tensor(value).view(-1, 1, 1))

    def forward(self, data: dict, training: bool = False) -> dict:
        if training or len({image.shape for image in data["inputs"]}) == 1:
            return super().forward(data, training)
        images = [
            super(CLIPDataPreprocessor, self).forward({"inputs": [image]})["inputs"][0]
            for image in data["inputs"]
        ]
        return {"inputs": images, "data_samples": self.cast_data(data.get("data_samples"))}
