"""Word lists for "everything else", by name.

A background is as good as the words that stand for it: published figures on VOC21 fall by 14 to 24
points where the word list gives way to the plain name (docs/words.md). A name stands for its list
wherever words of a background are given, in line 1 of a class-name file too.
"""

from collections.abc import Collection

from .errors import InputError
from .runtime.files import shipped_file

# What surrounds the things that people photograph.
_SURROUNDINGS = (
    "sky", "cloud", "wall", "ceiling", "floor", "window", "door", "building", "house", "roof",
    "road", "street", "pavement", "ground", "grass", "field", "soil", "sand", "snow", "rock",
    "mountain", "hill", "tree", "bush", "leaves", "water", "sea", "river", "fence", "pole",
    "curtain", "carpet", "table", "shelf", "cabinet", "lamp", "blanket", "fabric",
)  # fmt: skip
# Scenes and surfaces alone, in and out of doors: no furniture or other thing that may be a class.
_GENERIC = (
    "sky", "clouds", "sun", "fog", "ground", "floor", "wall", "ceiling", "building", "house",
    "roof", "window", "door", "stairs", "bridge", "tower", "fence", "railing", "gate", "pole",
    "street lamp", "road", "street", "pavement", "path", "parking lot", "railway track",
    "platform", "field", "grass", "lawn", "soil", "sand", "gravel", "mud", "rock", "cliff",
    "mountain", "hill", "forest", "tree", "bush", "leaves", "water", "sea", "river", "lake",
    "beach", "snow", "ice", "curtain", "carpet", "tiles", "wood", "brick", "concrete", "metal",
    "fabric", "paper", "glass", "shelf", "counter", "shadow", "reflection",
)  # fmt: skip
# Name → words, or the shipped class-name file whose first line they are.
LISTS: dict[str, tuple[str, ...] | str] = {
    "voc21": "configs/cls_voc21_sclip.txt",
    "coco_object": "configs/cls_coco_object_sclip.txt",
    "itaclip": "configs/cls_voc21.txt",
    "generic": _GENERIC,
    "surroundings": _SURROUNDINGS,
    "plain": ("background",),
}
PLAIN = "plain"


def is_list_name(text: str) -> bool:
    """Whether a text names a list: ``@…``, or the word ``plain`` alone."""
    return text.startswith("@") or text == PLAIN


def background_words(name: str, place: str, taken: Collection[str] = ()) -> tuple[str, ...]:
    """The words of a list.

    Args:
        name: of the list, with or without its ``@``.
        place: where it was named, for the message.
        taken: names of classes, in lower case; they are left out.

    Raises:
        InputError: there is no such list, or every word is a class.
    """
    words = LISTS.get(name.removeprefix("@"))
    if words is None:
        known = ", ".join(f"@{known}" for known in LISTS if known != PLAIN)
        raise InputError(f"{place}: expected {known} or {PLAIN}, but got {name!r}; correct it.")
    if isinstance(words, str):
        with open(shipped_file(words), encoding="utf-8") as file:
            words = tuple(word.strip() for word in file.readline().split(","))
    left = tuple(word for word in words if word not in taken)
    if not left:
        raise InputError(f"{place}: every word of {name!r} is a class; give other words.")
    return left
