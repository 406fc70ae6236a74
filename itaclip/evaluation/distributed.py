"""Several processes that evaluate together: torch.distributed, and who goes first.

Launchers start and end the processes; torch's collectives over gloo are where they wait for one
another, and every wait ends with the group's timeout. A process that is lost closes its
connections, so that the others learn of it at the next exchange. What is exchanged are a few
numbers: nccl would gain nothing, and would forbid several processes on one GPU.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from mmengine.dist import get_rank, get_world_size
from torch.distributed.rendezvous import rendezvous

from ..checks import is_number
from ..errors import InputError
from ..runtime.files import one_line
from ..runtime.tool import ProcessLostError
from .signals import stop_behind

TIMEOUT = 1800  # seconds; env_cfg.dist_cfg.timeout changes it
_LINGER = 2.0  # seconds that rank 0 stays for the others after a failure
# Launcher → its names of rank, number of processes, and rank on the machine.
_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
_STARTERS = {"pytorch": "torchrun", "slurm": "srun", "mpi": "mpirun"}


# ---- order and exchange -------------------------------------------------------------------------


def first_of_machine() -> bool:
    """Whether this is the process that prepares what its machine's others find prepared."""
    return get_world_size() == 1 or get_rank() == 0 or int(os.environ.get("LOCAL_RANK", 0)) == 0


@contextmanager
def rank_zero_first() -> Iterator[None]:
    """Lets rank 0 through, then the first process of every other machine, then all others.

    What is fetched, drawn or cached inside is so done once in a place, and found there by the
    others. The body must exchange nothing with other processes.
    """
    turn = 0 if get_rank() == 0 else 1 if first_of_machine() else 2
    for _ in range(turn):
        _barrier()
    yield
    for _ in range(2 - turn):
        _barrier()


def gather(value: Any) -> list[Any]:
    """Everybody's value, by rank, on every process."""
    values = [value]
    if get_world_size() > 1:
        values = [None] * get_world_size()
        with _together():
            dist.all_gather_object(values, value)
    return values


def from_rank_zero(make: Callable[[], Any]) -> Any:
    """What rank 0 makes, on every process."""
    value = [make() if get_rank() == 0 else None]
    if get_world_size() > 1:
        with _together():
            dist.broadcast_object_list(value)
    return value[0]


def total(values: np.ndarray) -> np.ndarray:
    """The sum of everybody's values (N,)."""
    if get_world_size() == 1:
        return values
    summed = torch.from_numpy(values.copy())
    with _together():
        dist.all_reduce(summed)
    return summed.numpy()


def _barrier() -> None:
    if get_world_size() > 1:
        with _together():
            dist.barrier()


@contextmanager
def _together() -> Iterator[None]:
    """Around every exchange: torch's error becomes the one that ends a run in a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLostError(
            "another process of the run ended, or did not come within the timeout "
            f"({_reason(error)})"
        ) from error


# ---- the group ----------------------------------------------------------------------------------


@contextmanager
def process_group(launcher: str, dist_cfg: Mapping[str, Any] | None = None) -> Iterator[None]:
    """The group of processes that a launcher started, until the end.

    Of several processes that end in an error the first to come here speaks; the exceptions of the
    others get an attribute ``silent``: one message is enough.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi', as in mmengine.
        dist_cfg: the config's ``env_cfg.dist_cfg``: ``timeout`` in seconds of every wait, and
            ``port``.

    Raises:
        InputError: not started by the launcher, or the processes do not find one another.
    """
    store = None if launcher == "none" else _start(launcher, dict(dist_cfg or {}))
    try:
        yield
    except BaseException as raised:
        error = stop_behind(raised)
        if store is not None:
            error.silent = not _speaks(store)
        raise error from error.__cause__
    if store is not None:
        dist.destroy_process_group()


def _speaks(store: dist.Store) -> bool:
    """Leaves the group, so that the others notice; whether none of them has told yet why."""
    rank, size = get_rank(), get_world_size()
    first, end = True, time.monotonic() + _LINGER
    try:
        first = store.add("told", 1) == 1
        dist.destroy_process_group()
        while rank == 0 and time.monotonic() < end and store.add("told", 0) < size:
            time.sleep(0.05)  # it may hold the store, in which the others will look
    except RuntimeError:  # whoever held the store is gone
        pass
    return first


def _start(launcher: str, dist_cfg: Mapping[str, Any]) -> dist.Store:
    rank, size, local_rank = (_variable(launcher, name) for name in _VARIABLES[launcher])
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))
    _set_address(launcher, dist_cfg.get("port"))
    timeout = dist_cfg.get("timeout", TIMEOUT)
    if not is_number(timeout, 0) or timeout == 0:
        raise InputError(
            f"env_cfg.dist_cfg.timeout: expected seconds above 0, but got {timeout!r}."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank % torch.cuda.device_count())
    limit = timedelta(seconds=timeout)
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=limit)))
        store.set_timeout(limit)
        # What killed processes left there is not of this attempt.
        store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"--launcher {launcher}: the {size} processes did not come together at {address} "
            f"within {timeout:g} s ({_reason(error)}); see that all are started and "
            "that the address can be reached."
        ) from error
    return dist.PrefixStore("itaclip", store)


def _reason(error: Exception) -> str:
    """torch's own words, without places in its source."""
    return one_line(RuntimeError(re.sub(r"\[\S*/\S+:\d+\] ?", "", str(error).splitlines()[0])))


def _variable(launcher: str, name: str) -> int:
    value = os.environ.get(name, "")
    if launcher == "slurm" and name == "SLURM_LOCALID" and not value:
        value = "0"
    if not value.isdecimal():
        raise InputError(
            f"--launcher {launcher}: expected a number in the environment variable {name}, but got "
            f"{value!r}; start eval.py with {_STARTERS[launcher]}, or leave --launcher out."
        )
    return int(value)


def _set_address(launcher: str, port: int | None) -> None:
    """Where rank 0 is found: given by the launcher, or the first machine of a Slurm job."""
    if port is not None and launcher != "pytorch":
        os.environ["MASTER_PORT"] = str(port)
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" in os.environ:
        return
    if launcher == "slurm":
        nodes = os.environ.get("SLURM_NODELIST", "")
        try:
            done = subprocess.run(
                ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
            )
            os.environ["MASTER_ADDR"] = done.stdout.split()[0]
            return
        except (OSError, subprocess.SubprocessError, IndexError):
            pass
    raise InputError(
        f"--launcher {launcher}: the environment variable MASTER_ADDR is not set; set it to the "
        "host name of the machine that runs process 0."
    )
