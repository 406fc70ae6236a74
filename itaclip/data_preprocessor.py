"""CLIP's normalisation of images, for batches of any sizes."""

from mmseg.models import SegDataPreProcessor
from mmseg.registry import MODELS

# CLIP's mean and deviation of RGB on the scale 0-255, rounded as in the published configs.
MEAN = (122.771, 116.746, 104.094)
STD = (68.501, 66.632, 70.323)


@MODELS.register_module()
class CLIPDataPreprocessor(SegDataPreProcessor):
    """mmseg's preprocessor with CLIP's constants; images of one batch may differ in size.

    Inputs are BGR images (3, H, W) on the scale 0-255; outputs are RGB and normalised, as one
    tensor (B, 3, H, W) where the sizes agree, else as a list.
    """

    def __init__(self) -> None:
        super().__init__(mean=MEAN, std=STD, bgr_to_rgb=True)

    def forward(self, data: dict, training: bool = False) -> dict:
        if training or len({image.shape for image in data["inputs"]}) == 1:
            return super().forward(data, training)
        images = [
            super(CLIPDataPreprocessor, self).forward({"inputs": [image]})["inputs"][0]
            for image in data["inputs"]
        ]
        return {"inputs": images, "data_samples": self.cast_data(data.get("data_samples"))}
