"""Several processes that evaluate together: their start, order, waiting, and end.

Waiting looks into torch's key-value store again and again instead of blocking in a collective: one
process may have hours more to do than another, yet the run must end with a sentence, and soon, when
a process is lost. Collectives only exchange things at points where all processes have arrived.
"""

import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import all_gather_object, broadcast_object_list
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed.rendezvous import rendezvous

from ..checks import is_number
from ..errors import InputError
from ..runtime.tool import ProcessLostError
from .signals import check_stop, stop_behind

TIMEOUT = 300  # seconds; env_cfg.dist_cfg.timeout changes it
_BEAT, _LOOK = 1.0, 0.1  # seconds between signs of life, and between looks while waiting
# Launcher → its names of rank, number of processes, and rank on the machine.
_VARIABLES = {
    "pytorch": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
}
_STARTERS = {"pytorch": "torchrun", "slurm": "srun", "mpi": "mpirun"}


@MODEL_WRAPPERS.register_module()
class PlainModelWrapper(nn.Module):
    """A frozen model among several processes: nothing is exchanged (torch's DDP refuses it)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.test_step(*args, **kwargs)

    def val_step(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.val_step(*args, **kwargs)


class Processes:
    """The processes of a run, seen from one of them.

    Args:
        rank: this one, from 0; rank 0 writes what there is once.
        size: how many there are.
        store: torch's key-value store; None for a single process.
        timeout: seconds without a sign of life after which a process counts as lost.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, store: Any = None, timeout: float = TIMEOUT
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.host = socket.gethostname()
        self.main = rank == 0
        self.leader = True
        """Whether this is the first process of its machine."""
        self._store, self._stages = store, itertools.count()
        self._lost: str | None = None
        self._told = False  # another process says why the run ends
        self._found = False  # this one found it out, and says it
        self._ending = threading.Event()
        if store is not None:
            hosts = all_gather_object(self.host)
            self.leader = hosts.index(self.host) == rank
            self._hosts = hosts
            threading.Thread(target=self._watch, name="signs of life", daemon=True).start()

    # ---- signs of life --------------------------------------------------------------------------

    def _watch(self) -> None:
        """Tells that this process lives, and looks whether rank 0, or as rank 0 all, do."""
        others = range(1, self.size) if self.main else [0]
        seen = {rank: (b"", time.monotonic()) for rank in others}
        for beat in itertools.count():
            if self._ending.wait(_BEAT):
                return
            try:
                self._store.set(f"alive/{self.rank}", str(beat))
                failure = self._get("failure")
                if failure is not None:
                    self._lost, self._told = failure.decode(), True
                    return
                for rank, (value, since) in seen.items():
                    now = self._get(f"alive/{rank}") or b""
                    if now != value:
                        seen[rank] = now, time.monotonic()
                    elif time.monotonic() - since > self.timeout and not self._said_goodbye(rank):
                        self._found = True
                        self._lost = (
                            f"process {rank} of {self.size} on {self._hosts[rank]} has given no "
                            f"sign of life for {self.timeout:g} s"
                        )
                        self._store.set("failure", self._lost)
                        return
            except Exception as error:  # whatever torch raises where the store is gone
                if not self._ending.is_set():
                    self._lost = _lost_connection(error)
                return

    def _said_goodbye(self, rank: int) -> bool:
        return self._store.check([f"goodbye/{rank}"])

    def _get(self, key: str) -> bytes | None:
        """The value of a key if there is one; never blocks."""
        return self._store.get(key) if self._store.check([key]) else None

    def check(self) -> None:
        """Raises what ends the run: a signal that came, or another process that is lost."""
        check_stop()
        if self._lost is not None:
            raise ProcessLostError(self._lost)

    def _wait(self, key: str) -> None:
        """Waits until a key is set, however long, as long as all processes live."""
        while True:
            self.check()
            with self._reaching():
                if self._store.check([key]):
                    return
            time.sleep(_LOOK)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Around all that others must be alive for: turns torch's errors into the reason."""
        try:
            yield
        except RuntimeError as error:
            time.sleep(2 * _BEAT)  # by then the watch knows more
            self.check()
            raise ProcessLostError(_lost_connection(error)) from error

    # ---- order ----------------------------------------------------------------------------------

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Lets rank 0 through, then the first process of every other machine, then all others.

        What is fetched, drawn or cached inside is so done once in a place, and found there by the
        others. The body must exchange nothing with other processes.
        """
        if self._store is None:
            yield
            return
        stage = next(self._stages)
        if not self.main:
            self._wait(f"stage/{stage}")
        if not self.leader:
            self._wait(f"stage/{stage}/{self.host}")
        yield
        with self._reaching():
            if self.main:
                self._store.set(f"stage/{stage}", "done")
            if self.leader:
                self._store.set(f"stage/{stage}/{self.host}", "done")

    def meet(self) -> None:
        """Waits until all processes have come here."""
        if self._store is None:
            return
        stage = next(self._stages)
        with self._reaching():
            self._store.set(f"meeting/{stage}/{self.rank}", "here")
        for rank in range(self.size):
            self._wait(f"meeting/{stage}/{rank}")

    # ---- exchange -------------------------------------------------------------------------------

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank, after all have arrived."""
        self.meet()
        with self._reaching():
            return all_gather_object(value) if self.size > 1 else [value]

    def from_main(self, make: Callable[[], Any]) -> Any:
        """What rank 0 makes, on every process."""
        value = [make() if self.main else None]
        self.meet()
        if self.size > 1:
            with self._reaching():
                broadcast_object_list(value)
        return value[0]

    def publish(self, value: bytes) -> None:
        """Shows a value to :meth:`published`; a later one replaces it. Nobody waits."""
        if self._store is not None:
            with self._reaching():
                self._store.set(f"published/{self.rank}", value)

    def published(self) -> list[bytes]:
        """The values that the other processes show at present."""
        if self._store is None:
            return []
        others = (rank for rank in range(self.size) if rank != self.rank)
        with self._reaching():
            values = [self._get(f"published/{rank}") for rank in others]
        return [value for value in values if value is not None]

    # ---- end ------------------------------------------------------------------------------------

    def fail(self, reason: str) -> bool:
        """Tells the others why this process ends; says whether it is the first one to tell."""
        self._ending.set()
        if self._store is None:
            return True
        try:
            first = self._store.add("failures", 1) == 1
            if first:
                what = f"process {self.rank} of {self.size} on {self.host} ended: {reason}"
                self._store.set("failure", what)
            if self.main:  # which may hold the store: the others shall read it first
                end = time.monotonic() + 3 * _BEAT
                while self._store.add("failures", 0) < self.size and time.monotonic() < end:
                    time.sleep(_LOOK)
            return (first or self._found) and not self._told
        except Exception:  # nobody is left to tell
            return not self._told

    def close(self) -> None:
        """Leaves an evaluation that is done; rank 0, which may hold the store, goes last."""
        if self._store is None:
            return
        with self._reaching():
            self._store.set(f"goodbye/{self.rank}", "done")
        if self.main:
            for rank in range(self.size):
                self._wait(f"goodbye/{rank}")
        self._ending.set()
        dist.destroy_process_group()


def _lost_connection(error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the connection to the other processes is lost ({reason})"


_current = Processes()


def main_first() -> Any:
    """:meth:`Processes.main_first` of the run that is under way."""
    return _current.main_first()


@contextmanager
def processes(launcher: str, dist_cfg: Mapping[str, Any] | None = None) -> Iterator[Processes]:
    """Starts the group of processes, and ends it for all when one ends.

    An exception in one process raises :class:`ProcessLostError` in the others at their next check.
    All but the first that tells get an attribute ``silent``: one message is enough.

    Args:
        launcher: 'none', 'pytorch', 'slurm' or 'mpi', as in mmengine.
        dist_cfg: the config's ``env_cfg.dist_cfg``: ``backend``, where None or nccl becomes gloo
            without a GPU; ``timeout`` in seconds; ``port``.

    Raises:
        InputError: not started by the launcher, or more processes than GPUs.
    """
    global _current
    _current = own = _start(launcher, dict(dist_cfg or {}))
    try:
        yield own
        own.close()
    except BaseException as raised:
        error = stop_behind(raised)
        message = str(error).strip() or type(error).__name__
        if not own.fail(message.splitlines()[0]):
            error.silent = True
        raise error from error.__cause__
    finally:
        _current = Processes()


def _start(launcher: str, dist_cfg: dict[str, Any]) -> Processes:
    if launcher == "none":
        return Processes()
    rank, size, local_rank = (_variable(launcher, name) for name in _VARIABLES[launcher])
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(local_rank))
    _set_address(launcher, dist_cfg.get("port"))
    timeout = dist_cfg.get("timeout", TIMEOUT)
    if not is_number(timeout, 0) or timeout == 0:
        raise InputError(
            f"env_cfg.dist_cfg.timeout: expected seconds above 0, but got {timeout!r}."
        )
    backend = dist_cfg.get("backend") or "nccl"
    if not torch.cuda.is_available():
        backend = "gloo" if backend == "nccl" else backend
    else:
        _choose_gpu(local_rank, backend)
    limit = timedelta(seconds=timeout)
    try:
        store, _, _ = next(iter(rendezvous("env://", timeout=limit)))
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise InputError(
            f"--launcher {launcher}: the {size} processes did not come together at {address} "
            f"within {timeout:g} s ({str(error).splitlines()[0]}); see that all are started and "
            "that the address can be reached."
        ) from error
    return Processes(rank, size, dist.PrefixStore("itaclip", store), timeout)


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


def _choose_gpu(local_rank: int, backend: str) -> None:
    gpus = torch.cuda.device_count()
    if backend == "nccl" and local_rank >= gpus:
        raise InputError(
            f"--launcher: process {local_rank + 1} of this machine finds {gpus} GPU(s), and nccl "
            "wants one for each; start fewer processes, set CUDA_VISIBLE_DEVICES= to run without "
            "GPUs, or share them with --cfg-options env_cfg.dist_cfg.backend=gloo."
        )
    torch.cuda.set_device(local_rank % gpus)
