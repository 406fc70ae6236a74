"""The method as a segmentor of mmseg, which its Runner, helpers and tools take."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.structures import PixelData
from mmseg.models.segmentors import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor

from .data_preprocessor import CLIPDataPreprocessor, flip_axes, undo_flip, without_padding
from .regions import Picture
from .runtime.torch_state import undisturbed
from .segmentor import Segmentor

MODELS.register_module(module=CLIPDataPreprocessor)


@MODELS.register_module()
class ITACLIPSegmentor(Segmentor, BaseSegmentor):
    """:class:`itaclip.segmentor.Segmentor`, whose arguments are the keys of a config's model."""

    def to(self, *args: Any, **kwargs: Any) -> "ITACLIPSegmentor":
        """Moves the model; to the CPU, which is said, where mmengine has chosen Apple's ``mps``."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None and device.type == "mps":
            print_log("device: 'mps' is not supported; the CPU computes.", "current", 30)
            args = ("cpu",)
        return super().to(*args, **kwargs)

    @property
    def out_channels(self) -> int:
        """Number of classes, which mmseg's test-time augmentation asks for."""
        return self.vocabulary.num_classes

    @undisturbed()
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
            picture = self.picture_of(sample, image, output_size)
            found = self.segment(image, output_size, picture=picture)
            labels, scores = undo_flip(found, sample.metainfo)
            assert labels is not None
            data = {"pred_sem_seg": PixelData(data=labels.unsqueeze(0))}
            if scores is not None:
                data["seg_logits"] = PixelData(data=scores.permute(2, 0, 1))
            sample.set_data(data)
        return list(samples)

    def picture_of(self, sample: SegDataSample, image: Tensor, size: tuple[int, int]) -> Picture:
        """What a sample says about its picture: file and ground truth.

        Pixels are the file's where it has the sample's size, else the image's.
        """
        path, flip = sample.metainfo.get("img_path"), flip_axes(sample.metainfo)
        own = self.picture(image.flip([axis + 1 for axis in flip]), size)

        def pixels() -> np.ndarray:
            bgr = cv2.imread(str(path)) if path else None
            return own.pixels() if bgr is None or bgr.shape[:2] != size else bgr[..., ::-1].copy()

        truth = None
        if "gt_sem_seg" in sample:
            truth = sample.gt_sem_seg.data.squeeze(0).to(image.device)
        return Picture(size, None if path is None else str(path), pixels, image.device, flip, truth)

    @undisturbed()
    def encode_decode(self, inputs: Tensor, batch_data_samples: object = None) -> Tensor:
        """Query logits at the input's size, (B, Q, H, W), before refinement."""
        return torch.stack([self.query_logits(image).permute(2, 0, 1) for image in inputs])

    def _forward(self, inputs: Tensor, data_samples: object = None) -> Tensor:
        return self.encode_decode(inputs)

    def loss(self, inputs: Tensor, data_samples: object) -> dict:
        """Not available: the method is training-free."""
        raise NotImplementedError("ITACLIPSegmentor is training-free: it has no loss.")
