"""What a recipe is: the constants of one training-free method, and how they make dense tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checks import is_integer, is_number, plain
from ..errors import InputError
from ..guide import Guide, GuideReads
from .tower import Reads, Tower


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training-free method, as a description of how CLIP's last blocks are run.

    A method is a frozen dataclass whose fields, made by :func:`key`, are its constants; every field
    can be varied in a config. It says what it reads of the tower, and what the last block does.

    Args:
        depth: number of blocks that the block numbers among the fields were chosen for.
        source: the publication.
        name: under which it is registered.
        exact: what of it is computed as published.
        left_out: what is inferred or left out.
    """

    # What a method may need beyond CLIP and an image; a recipe has a flag ``needs_…`` for each.
    NEEDS: ClassVar[tuple[str, ...]] = ("text", "guide", "regions")

    depth: int | None = 12
    source: str = ""
    name: str = field(default="", compare=False)
    exact: str = field(default="", compare=False)
    left_out: str = field(default="", compare=False)

    # True for methods that read the features of a second image backbone.
    needs_guide: ClassVar[bool] = False
    # True for methods whose attention follows a map of regions.
    needs_regions: ClassVar[bool] = False
    # How windows meet where they are stitched: before the last block ('values'), or after it,
    # before the final layer norm ('tokens'); None: they cannot.
    meets: ClassVar[str | None] = "values"

    # What may depend on a recipe's values; where it does not, a constant of the class does.

    @property
    def needs_text(self) -> bool:
        """Whether features depend on the words: such methods get a second pass."""
        return False

    @property
    def needs_sam(self) -> bool:
        """Whether SAM's encoder is read beside the guide."""
        return False

    @property
    def guide_reads(self) -> GuideReads:
        """What is read of the guide."""
        return GuideReads()

    @property
    def joint(self) -> bool:
        """Whether the last step sees all windows of a picture at once: they are its batch."""
        return False

    @property
    def needs_stitch(self) -> bool:
        """Whether a step follows where windows have met: they must be stitched."""
        return False

    @property
    def window_multiple(self) -> int:
        """Windows are padded with zeros to multiples of so many pixels."""
        return 1

    @property
    def reads_cls(self) -> str | None:
        """Whose [CLS] :meth:`similarities` reads: ``'picture'``, ``'window'``, or None."""
        return None

    def reads(self, depth: int) -> Reads:
        """What is kept of the blocks before the last, in a tower of ``depth`` blocks."""
        return Reads()

    def after_block(self, number: int, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, D) that leave block ``number``; methods that repair tokens do it here."""
        return tokens

    def mix(self, tower: Tower, values: Tensor) -> Tensor:
        """The last block's attention applied to values (B, M, N, c); linear in the values."""
        raise NotImplementedError

    def tokens(self, tower: Tower) -> Tensor:
        """Tokens (B, N, D) fp32 before the final layer norm; token 0 is [CLS]."""
        raise NotImplementedError

    def tokens_again(self, tower: Tower, images: Tensor, similarities: Tensor) -> Tensor:
        """The second pass of a method with ``needs_text``.

        Args:
            tower: as in the first pass.
            images: (B, 3, H, W), CLIP-normalised.
            similarities: (B, h, w, Q), cosines of the first pass with every query.

        Returns:
            As :meth:`tokens`.
        """
        raise NotImplementedError

    def normed(self, tower: Tower, norm: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens (B, N, D) after the final layer norm; for methods that add up several branches."""
        return norm(self.tokens(tower))

    def output_grid(self, tower: Tower) -> tuple[int, int]:
        """(h, w) of the patches that :meth:`tokens` gives."""
        return tower.grid

    def on_picture(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        image: Tensor,
        sam: Guide | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, tuple[int, int]]:
        """What follows where windows have met as tokens, before the final layer norm.

        Args:
            patches: (1, P, D) of the whole picture.
            grid: (h, w) of them.
            image: (3, H, W), CLIP-normalised.
            sam: SAM's encoder, if any.
            dtype: of matrix products.

        Returns:
            Patches (1, P', D), and their grid.
        """
        return patches, grid

    def picture_size(self, size: tuple[int, int], least: tuple[int, int]) -> tuple[int, int]:
        """The size (H, W) to which a picture is brought before windows of ``least`` are laid."""
        return size

    def similarities(self, features: Tensor, text: Tensor, cls: Tensor | None) -> Tensor:
        """Similarities (K, h, w, Q) of windows' features (K, h, w, E) with the words.

        Args:
            features: of unit length, but for fused views.
            text: (Q, E).
            cls: (K, E) or (1, E) [CLS] features, for methods with ``reads_cls``.
        """
        return features @ text.T

    def attention_maps(self, tower: Tower) -> Tensor:
        """The maps that :meth:`mix` applies, (B, M, N, N) fp32; rows attend to columns."""
        values = tower.last.v
        identity = torch.eye(values.shape[2], dtype=values.dtype, device=values.device)
        return self.mix(tower, identity.expand(*values.shape[:2], -1, -1)).float()

    def check(self) -> None:
        """Refuses impossible combinations of values (InputError); kinds are checked before."""

    def check_guide(self, guide: Guide, heads: int) -> None:
        """Refuses a guide that does not go with a tower of ``heads`` heads (InputError)."""

    def check_width(self, width: int) -> None:
        """Refuses values that do not belong to a tower of ``width`` channels (InputError)."""

    @property
    def needs_cls(self) -> bool:
        """Whether the method reads [CLS], or counts on it as token 0; towers may have none."""
        return True

    def check_cls(self, has_cls: bool) -> None:
        """Refuses a tower without [CLS] for a method that needs one (InputError)."""
        if self.needs_cls and not has_cls:
            raise InputError(
                f"attention: {type(self).__name__} reads the [CLS] token, but this model's image "
                "tower has none (SigLIP pools its patches); use a recipe without it, such as "
                "'itaclip', 'naclip' or 'maskclip'."
            )

    def effective(self) -> "Recipe":
        """Without what has no effect, such as blocks that are read with weight 0."""
        return self


# ---- fields -------------------------------------------------------------------------------------


def _are_blocks(value: object) -> bool:
    return isinstance(value, tuple) and all(map(is_integer, value)) and len({*value}) == len(value)


_KINDS = {
    "flag": (lambda v: isinstance(v, bool), "True or False"),
    "share": (lambda v: is_number(v, 0, 1), "a number from 0 to 1"),
    "share or None": (lambda v: v is None or is_number(v, 0, 1), "None or a number from 0 to 1"),
    "number": (is_number, "a number"),
    "not negative": (lambda v: is_number(v, 0), "a number from 0"),
    "number or None": (lambda v: v is None or is_number(v), "None or a number"),
    "positive": (lambda v: is_number(v, 0) and v > 0, "a number above 0"),
    "positive or None": (
        lambda v: v is None or (is_number(v, 0) and v > 0),
        "None or a number above 0",
    ),
    "count": (lambda v: is_integer(v, 1), "an integer from 1"),
    "count or 0": (lambda v: is_integer(v, 0), "an integer from 0"),
    "integers": (_are_blocks, "a tuple of different integers"),
    "block": (is_integer, "a block number, counted from 1, or 'scaled'"),
    "blocks": (_are_blocks, "different block numbers, counted from 1, or 'scaled'"),
}


def key(default: Any, kind: str, *choices: str) -> Any:
    """A field of a recipe that configs can vary.

    Args:
        default: the published value.
        kind: one of ``'flag'``, ``'share'`` (0 to 1), ``'number'``, ``'not negative'``,
            ``'positive'``, ``'count'``, ``'count or 0'``, ``'integers'``, ``'block'`` and
            ``'blocks'`` (numbers that belong to a depth), ``'share or None'``,
            ``'number or None'``, ``'positive or None'``, ``'choice'``: one of ``choices``, or
            ``'terms'``: a tuple out of them.
        choices: what to choose from.
    """
    return field(default=default, metadata={"kind": kind, "choices": choices})


def keys_of(recipe: Recipe | type[Recipe]) -> dict[str, Mapping]:
    """The fields that configs can vary, and their metadata."""
    return {f.name: f.metadata for f in fields(recipe) if "kind" in f.metadata}


def varied(recipe: Recipe, name: str, changes: Mapping[str, Any], num_blocks: int) -> Recipe:
    """A recipe with some values changed, checked, for a tower of ``num_blocks`` blocks.

    Raises:
        InputError: unknown keys, values of the wrong kind, impossible combinations, and block
            numbers that belong to a tower of another depth.
    """
    kinds = keys_of(recipe)
    unknown = sorted(set(changes) - set(kinds))
    if unknown:
        raise InputError(
            f"attention: unknown key {unknown[0]!r} for recipe {name!r}; expected "
            + (f"one of {', '.join(kinds)}." if kinds else "none.")
        )
    given = {}
    for key_name, value in changes.items():
        value = tuple(map(plain, value)) if isinstance(value, list | tuple) else plain(value)
        if value == "scaled" and kinds[key_name]["kind"] in ("block", "blocks"):
            value = _scaled(recipe, name, key_name, num_blocks)
        given[key_name] = value
    recipe = replace(recipe, **given)
    for key_name, metadata in kinds.items():
        _check_kind(recipe, key_name, metadata)
    recipe.check()
    recipe = recipe.effective()
    _check_blocks(recipe, name, given, num_blocks)
    changed = any(kinds[key_name]["kind"] in ("block", "blocks") for key_name in given)
    return replace(recipe, depth=num_blocks) if changed else recipe


def _check_kind(recipe: Recipe, name: str, metadata: Mapping) -> None:
    value = getattr(recipe, name)
    if metadata["kind"] == "terms":
        choices = metadata["choices"]
        right = isinstance(value, tuple) and len(value) > 0 and all(t in choices for t in value)
        expected = f"a non-empty tuple out of {', '.join(choices)}"
    elif metadata["kind"] == "choice":
        choices = metadata["choices"]
        right, expected = value in choices, f"one of {', '.join(map(repr, choices))}"
    else:
        is_right, expected = _KINDS[metadata["kind"]]
        right = is_right(value)
    if not right:
        raise InputError(f"attention.{name}: expected {expected}, but got {value!r}.")


def _scaled(recipe: Recipe, name: str, key_name: str, num_blocks: int) -> int | tuple[int, ...]:
    """A recipe's own block numbers at the same relative depth of another tower."""
    own = getattr(recipe, key_name)
    if own == () or recipe.depth is None:
        raise InputError(
            f"attention.{key_name}: 'scaled' needs a recipe with block numbers of its own, but "
            f"{name!r} has none; give block numbers."
        )
    if isinstance(own, int):
        return round(own * num_blocks / recipe.depth)
    return tuple(sorted({round(i * num_blocks / recipe.depth) for i in own}))


def _check_blocks(recipe: Recipe, name: str, given: Mapping, num_blocks: int) -> None:
    for key_name, metadata in keys_of(recipe).items():
        value = getattr(recipe, key_name)
        if metadata["kind"] not in ("block", "blocks") or value == ():
            continue
        if recipe.depth not in (None, num_blocks) and key_name not in given:
            scaled = _scaled(recipe, name, key_name, num_blocks)
            raise InputError(
                f"attention: recipe {name!r} reads {key_name.replace('_', ' ')} {value} of a tower "
                f"of {recipe.depth} blocks, but the image encoder has {num_blocks}; choose them "
                f"with attention=dict(recipe={name!r}, {key_name}=…), such as {scaled} or 'scaled'."
            )
        blocks = (value,) if isinstance(value, int) else value
        wrong = [i for i in blocks if not 1 <= i < num_blocks]
        if wrong:
            raise InputError(
                f"attention.{key_name}: expected blocks from 1 to {num_blocks - 1} (the last "
                f"block is always read), but got {wrong[0]} in {value}."
            )
