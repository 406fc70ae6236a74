"""A model in two parts: what is small, and its tensors as arrays that processes can share."""

import io
import pickle
import warnings

import numpy as np
import torch
from torch import Tensor, nn

from ..clip_model import clip_module

# NumPy has no such type; the bits travel as integers.
_AS_INTEGERS = {torch.bfloat16: torch.int16}


def take_apart(model: nn.Module) -> tuple[bytes, list[np.ndarray]]:
    """A module without its tensors, and these; equal tensors are one array.

    The arrays can lie in memory that is shared and read-only, one copy for all processes of a
    machine: see :func:`put_together`.
    """
    from ray import cloudpickle

    arrays: list[np.ndarray] = []
    numbers: dict[int, int] = {}
    kept: list[Tensor] = []

    class Pickler(cloudpickle.Pickler):  # recipes and views may hold functions of their own
        def persistent_id(self, value: object) -> tuple | None:
            if not isinstance(value, Tensor):
                return None
            tensor = value.detach().cpu().contiguous()
            if id(value) not in numbers:
                numbers[id(value)] = len(arrays)
                kept.append(value)  # so that no other tensor gets its id
                own = _AS_INTEGERS.get(tensor.dtype)
                arrays.append((tensor.view(own) if own else tensor).numpy())
            return numbers[id(value)], tensor.dtype, isinstance(value, nn.Parameter)

    skeleton = io.BytesIO()
    Pickler(skeleton).dump(model)
    return skeleton.getvalue(), arrays


def put_together(skeleton: bytes, arrays: list[np.ndarray]) -> nn.Module:
    """The module again; its tensors lie in the arrays' memory and must not be written to."""
    clip_module("model")  # is not imported by its name in the pickle
    made: dict[int, Tensor] = {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, entry: tuple) -> Tensor:
            number, dtype, is_parameter = entry
            if number not in made:
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*not writable")
                    tensor = torch.from_numpy(arrays[number])
                tensor = tensor.view(dtype) if dtype in _AS_INTEGERS else tensor
                made[number] = nn.Parameter(tensor, False) if is_parameter else tensor
            return made[number]

    return Unpickler(io.BytesIO(skeleton)).load()
