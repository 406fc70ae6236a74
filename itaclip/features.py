"""Dense features of an image: windows, their views, the encoder's passes, the views' fusion.

Shapes: H, W pixels; R, K rows and columns of windows; h, w patches of a window; V views.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .image_encoder import ImageEncoder
from .runtime.batches import run_in_batches
from .runtime.stages import stage
from .settings import Settings
from .sliding_window import WindowGrid
from .views import fuse_features
from .vocabulary import Vocabulary

# A progress bar over one image's windows appears from this number of them.
_MANY_WINDOWS = 500


@dataclass(frozen=True)
class DenseFeatures:
    """The fused features of one image's windows: all that is needed to segment into any words.

    What later steps read of a guide belongs here too, so that kept features go on serving any
    words.

    Attributes:
        windows: the grid of R·K windows.
        features: (R·K, h, w, E).
        vocabulary: the words that a recipe with ``needs_text`` read for them; else None.
    """

    windows: WindowGrid
    features: Tensor
    vocabulary: Vocabulary | None = None

    def rows(self) -> tuple[Tensor, ...]:
        """The features (K, h, w, E) of each row of windows."""
        return self.features.split(len(self.windows.lefts))


def row_features(
    image: Tensor, windows: WindowGrid, encoder: ImageEncoder, settings: Settings, text: Tensor
) -> Iterator[Tensor]:
    """Yields the fused features (K, h, w, E) of each row of windows, in order.

    Args:
        image: (3, H, W), CLIP-normalised.
        windows: of the image.
        encoder: makes the features.
        settings: views and batch.
        text: (Q, E), for recipes that read the words.
    """
    views = settings.views

    def fused(crops: Sequence[Tensor]) -> Tensor:
        with stage("views"):
            batch = torch.stack(list(crops))
            inputs = torch.cat([view.apply(batch) for view in views])  # V·B, 3, H, W
        with stage("encoder"):
            features, _ = encoder(inputs, text)
            features = F.normalize(features, dim=-1).unflatten(0, (len(views), -1))
        with stage("views"):
            return fuse_features(features, views)  # B, h, w, E

    batches = run_in_batches(
        fused,
        list(windows.crops(image)),
        settings.window_batch,
        bytes_each=len(views) * encoder.bytes_per_pass(windows.window),
        passes_each=len(views),
    )
    few, waiting = len(windows) < _MANY_WINDOWS, []
    for features in tqdm(batches, "windows", len(windows), leave=False, disable=few):
        waiting.append(features)
        if len(waiting) == len(windows.lefts):
            yield torch.stack(waiting)
            waiting = []
