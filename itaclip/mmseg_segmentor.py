"""The method as a segmentor of mmseg, which its Runner, helpers and tools take."""

from collections.abc import Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from .data_preprocessor import CLIPDataPreprocessor, undo_flip, without_padding
from .segmentor import Segmentor

MODELS.register_module(module=CLIPDataPreprocessor)


@MODELS.register_module()
class ITACLIPSegmentor(Segmentor, BaseSegmentor):
    """:class:`itaclip.segmentor.Segmentor`, whose arguments are the keys of a config's model."""

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
