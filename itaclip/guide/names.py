"""The backbones that are known by name: where they come from, and under which licence."""

from dataclasses import dataclass
from pathlib import Path

_ASSETS = Path(__file__).parents[1] / "assets"


@dataclass(frozen=True)
class KnownGuide:
    """A backbone with a name.

    Attributes:
        source: ``hf:OWNER/NAME``, or a folder that ships with the project.
        trained_on: its training data, for tables.
        licence: of the weights.
    """

    source: str
    trained_on: str
    licence: str


_DINO = ("ImageNet-1k, without labels", "Apache-2.0")
_DINOV2 = ("LVD-142M, without labels", "Apache-2.0")
_DINOV3 = ("LVD-1689M, without labels", "DINOv3 License (its own; gated)")
_SAM = ("SA-1B, 1.1 billion masks", "Apache-2.0")

GUIDES = {
    "storybook-guide": KnownGuide(
        str(_ASSETS / "storybook-guide"),
        "1500 drawn scenes of Storybook, without labels",
        "Apache-2.0",
    ),
    "dino-vits8": KnownGuide("hf:facebook/dino-vits8", *_DINO),
    "dino-vits16": KnownGuide("hf:facebook/dino-vits16", *_DINO),
    "dino-vitb8": KnownGuide("hf:facebook/dino-vitb8", *_DINO),
    "dino-vitb16": KnownGuide("hf:facebook/dino-vitb16", *_DINO),
    "dinov2-vits14": KnownGuide("hf:facebook/dinov2-small", *_DINOV2),
    "dinov2-vitb14": KnownGuide("hf:facebook/dinov2-base", *_DINOV2),
    "dinov2-vitb14-reg": KnownGuide("hf:facebook/dinov2-with-registers-base", *_DINOV2),
    "dinov3-vitb16": KnownGuide("hf:facebook/dinov3-vitb16-pretrain-lvd1689m", *_DINOV3),
    "sam-vitb": KnownGuide("hf:facebook/sam-vit-base", *_SAM),
}
