"""Work that the surrounding state of torch does not change.

The same call gives the same answer under autocast, in inference mode, and with other default
devices; default dtypes are never relied upon, since they belong to the whole process.
"""

import operator
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

_AUTOCASTS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def undisturbed() -> Iterator[None]:
    """No gradients, no autocast, no inference mode, and the CPU as the default device.

    Inference mode is left because its tensors can be changed nowhere else, and what is made here
    is kept: text features, lowered weights. Only this thread is concerned. Also a decorator.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in _AUTOCASTS:
            if torch.is_autocast_enabled(kind):
                stack.callback(torch.set_autocast_enabled, kind, True)
                torch.set_autocast_enabled(kind, False)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


def default_device() -> torch.device:
    """The first GPU where there is CUDA, else the CPU: also on Apple's machines, see ``to``."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class WeightsStamp:
    """Which weights a module had: to see whether others were loaded or written since.

    Moving the module is no change, nor is copying or pickling it together with the stamp. What is
    written past autograd's sight (``parameter.data.copy_``) is not seen.
    """

    def __init__(self, module: nn.Module) -> None:
        self.weights = tuple(module.parameters())
        self.versions = tuple(map(_version, self.weights))

    def holds(self, module: nn.Module) -> bool:
        """Whether the module has these weights still."""
        now = tuple(module.parameters())
        same = len(now) == len(self.weights) and all(map(operator.is_, now, self.weights))
        return same and self.versions == tuple(map(_version, now))

    def __getstate__(self) -> dict:
        return {"weights": self.weights}

    def __setstate__(self, state: dict) -> None:
        self.weights = state["weights"]
        self.versions = tuple(map(_version, self.weights))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
