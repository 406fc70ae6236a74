"""The stage with the model: pictures at the network's size into labels and scores.

Shapes: h, w network input; h', w' where labels are made; C classes.
"""

import numpy as np
import torch

from ..errors import InputError
from ..predict.images import resized_shape
from ..predict.segmenter import Segmenter
from ..runtime.batches import trim_memory
from ..segmentor import Segmentor
from .stages import DECIMALS, Row


class Labeller:
    """The model of one worker.

    Args:
        segmentor: with its words and thresholds.
        max_result_side: see :class:`itaclip.labelling.stages.Spec`.
    """

    def __init__(self, segmentor: Segmentor, max_result_side: int | None) -> None:
        self.segmentor = segmentor.variant(return_scores=True)
        self.max_result_side = max_result_side
        self._preprocessor = Segmenter(self.segmentor)

    def segment(self, row: Row) -> Row:
        """``pixels`` → ``small`` (h'·w' uint16 labels), ``small_size``, ``score_of`` (mean score
        of every class over its pixels), ``uncertainty``.

        The uncertainty of a pixel is 1 minus the margin between its two best classes' scores; that
        of a picture is their mean.
        """
        made = {key: value for key, value in row.items() if key not in ("pixels", "input_size")}
        made |= dict(small=None, small_size=[0, 0], score_of=[], uncertainty=None)
        if row["error"] is not None:
            return made
        pixels = np.frombuffer(row["pixels"], np.uint8).reshape(*row["input_size"], 3)
        size = resized_shape((row["height"], row["width"]), None, self.max_result_side)
        try:
            inputs = self._preprocessor.network_input(pixels, str(row.get("key")))
            labels, scores = self.segmentor.segment(inputs, size)
        except InputError as error:  # such as regions that are files beside the pictures
            return made | {"error": str(error)}
        own = scores.gather(-1, labels.long().unsqueeze(-1))[..., 0].cpu().numpy()
        best = scores.topk(min(2, scores.shape[-1]), dim=-1).values.cpu().numpy()
        margin = best[..., 0] - best[..., 1] if best.shape[-1] == 2 else best[..., 0]
        flat = labels.cpu().numpy().astype(np.uint16)
        classes = scores.shape[-1]
        counts = np.bincount(flat.ravel(), minlength=classes)
        sums = np.bincount(flat.ravel(), own.ravel().astype(np.float64), minlength=classes)
        made["small"], made["small_size"] = flat.tobytes(), list(flat.shape)
        made["score_of"] = (sums / np.maximum(counts, 1)).tolist()
        made["uncertainty"] = round(float(1 - margin.mean(dtype=np.float64)), DECIMALS)
        trim_memory()
        return made


def use_threads(count: int | None) -> None:
    """Limits PyTorch's threads of this process; None leaves them."""
    if count is not None:
        torch.set_num_threads(count)
