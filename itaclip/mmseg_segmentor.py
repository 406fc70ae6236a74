"""The segmentor as mmseg knows it: registered, with its helpers' arguments, batches and samples."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.structures import PixelData
from mmseg.models import BaseSegmentor, SegDataPreProcessor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .data_preprocessor import MEAN, STD, undo_flip, without_padding
from .errors import InputError
from .segmentor import Segmentor


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


@MODELS.register_module()
class ITACLIPSegmentor(Segmentor, BaseSegmentor):
    """:class:`itaclip.segmentor.Segmentor` with mmseg's interface.

    Args:
        data_preprocessor: as in mmseg; by default BGR → RGB and CLIP's mean and deviation.
        pretrained, train_cfg, init_cfg: accepted because mmseg's helpers pass them; must be None.
        arguments: those of :class:`itaclip.segmentor.Segmentor`, by name or in its order.

    Raises:
        InputError: any value that cannot be used, naming the key or the file and line.
    """

    def __init__(
        self,
        *arguments: Any,
        data_preprocessor: Mapping | nn.Module | None = None,
        pretrained: None = None,
        train_cfg: None = None,
        init_cfg: None = None,
        **keys: Any,
    ) -> None:
        unused = dict(pretrained=pretrained, train_cfg=train_cfg, init_cfg=init_cfg)
        for key, value in unused.items():
            if value:
                raise InputError(
                    f"{key}: expected None, since nothing is trained or loaded here, but got "
                    f"{value!r}; the weights are named by clip_model."
                )
        super().__init__(*arguments, **keys)
        if isinstance(data_preprocessor, Mapping):
            data_preprocessor = MODELS.build(data_preprocessor)
        self.data_preprocessor = data_preprocessor or CLIPDataPreprocessor()

    def normalise(self, bgr: Tensor) -> Tensor:
        """As :meth:`Segmentor.normalise`, by the data preprocessor."""
        return self.data_preprocessor({"inputs": [bgr]})["inputs"][0]

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor | Sequence[Tensor],
        data_samples: Sequence[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segments a batch; images may differ in size.

        Args:
            inputs: (B, 3, H, W), or B tensors (3, H, W), CLIP-normalised.
            data_samples: with ``ori_shape`` (H, W) in their metainfo; without it, the input's size.

        Returns:
            The samples with ``seg_logits`` (C, H, W), the scores after softmax, grouping and area
            rule, and ``pred_sem_seg`` (1, H, W) integer labels, at the original size.
        """
        samples = data_samples or [SegDataSample() for _ in inputs]
        for image, sample in zip(inputs, samples, strict=True):
            image = without_padding(image, sample.metainfo)
            output_size = tuple(sample.metainfo.get("ori_shape", image.shape[-2:])[:2])
            labels, scores = undo_flip(self.segment(image, output_size), sample.metainfo)
            data = {"pred_sem_seg": PixelData(data=labels.unsqueeze(0))}
            if scores is not None:
                data["seg_logits"] = PixelData(data=scores.permute(2, 0, 1))
            sample.set_data(data)
        return list(samples)

    def encode_decode(self, inputs: Tensor, batch_data_samples: object = None) -> Tensor:
        """Query logits at the input's size, (B, Q, H, W), before refinement."""
        return torch.stack([self.query_logits(image).permute(2, 0, 1) for image in inputs])

    def _forward(self, inputs: Tensor, data_samples: object = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: object) -> dict:
        """Not available: the method is training-free."""
        raise NotImplementedError("ITACLIPSegmentor is training-free: it has no loss.")


def _signature() -> inspect.Signature:
    """All keys that a config may have: the method's and mmseg's."""
    own = inspect.signature(ITACLIPSegmentor.__init__).parameters.values()
    inner = inspect.signature(Segmentor).parameters.values()
    named = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return inspect.Signature([*inner, *named])


ITACLIPSegmentor.__signature__ = _signature()
