"""Storybook: a drawn benchmark of pictures, captions and masks that needs no download."""

from .benchmark import CLASSES, PALETTE, SPLITS, ensure_split, generate_split

__all__ = ["CLASSES", "PALETTE", "SPLITS", "ensure_split", "generate_split"]
