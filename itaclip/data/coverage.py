"""Which classes the masks can hold at all: the others are never scored, and that without a word."""

from collections.abc import Collection, Sequence
from typing import Any

from ..errors import BadSampleError
from .loading import read_labels
from .problems import Problem

_MAX_NAMED = 6  # classes named in one message
_PEEKS = 8  # masks that are looked at before a run
_TWO_VALUES = (
    "if 255 is a class in these masks, take dict(type='LoadMappedAnnotations', "
    "mapping={0: 0, 255: 1}) in the pipeline"
)


def unseen_classes(
    names: Sequence[str], seen: Collection[int], where: str, reduce_zero_label: bool = False
) -> list[Problem]:
    """A warning about classes that occur in no mask, and the setting to look at.

    Args:
        names: of the classes.
        seen: labels that occur, ignored ones among them or not.
        where: folder of the masks.
        reduce_zero_label: of the data set.
    """
    unseen = [index for index in range(len(names)) if index not in seen]
    if not unseen:
        return []
    if len(unseen) == len(names):
        what = "no class occurs in any mask, all their pixels are ignored"
    elif len(unseen) == 1:
        what = f"class {unseen[0]} ({names[unseen[0]]}) occurs in no mask"
    else:
        listed = ", ".join(f"{index} ({names[index]})" for index in unseen[:_MAX_NAMED])
        more = f" and {len(unseen) - _MAX_NAMED} more" if len(unseen) > _MAX_NAMED else ""
        what = f"{len(unseen)} of {len(names)} classes occur in no mask: {listed}{more}"
    if reduce_zero_label and unseen[-1] == len(names) - 1:
        remedy = "if label 0 is a class here, reduce_zero_label must be False"
    elif not any(index in seen for index in range(1, len(names))):
        remedy = _TWO_VALUES
    else:
        remedy = (
            "if the masks hold them under other numbers, look at "
            "metainfo.classes, reduce_zero_label and LoadMappedAnnotations' mapping"
        )
    return [Problem("warning", where, f"{what}; {remedy}", "unseen")]


def peek_at_masks(dataset: Any) -> list[Problem]:
    """The same before a run, from a few masks: whether they hold 0 and 255 alone."""
    if hasattr(dataset, "datasets"):  # a concatenation
        return [problem for part in dataset.datasets for problem in peek_at_masks(part)]
    from .check import configured_lookup, load_samples

    masks = [sample["seg_map_path"] for sample in load_samples(dataset) if "seg_map_path" in sample]
    if configured_lookup(dataset) is not None or len(dataset.metainfo["classes"]) < 2:
        return []
    marked = False
    for mask in masks[:: max(1, len(masks) // _PEEKS)][:_PEEKS]:
        try:
            labels = read_labels(mask)
        except BadSampleError:  # the run itself says it
            continue
        if not ((labels == 0) | (labels == 255)).all():
            return []
        marked = marked or bool((labels == 255).any())
    if not marked:
        return []
    where = str(dataset.data_prefix.get("seg_map_path"))
    message = f"the masks looked at hold 0 and 255 alone, and 255 is ignored; {_TWO_VALUES}"
    return [Problem("warning", where, message, "unseen")]
