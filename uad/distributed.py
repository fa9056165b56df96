"""One process or many: the same calls, which do nothing where there is only one.

Start with `torchrun --nproc-per-node=N`, `python -m torch.distributed.launch --use_env`, or plain `python`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from uad.errors import InputError, input_error
from uad.memory import keep_freed_memory
from uad.precision import keep_float32_exact

T = TypeVar("T")
# How long a process waits for the others, on every kind of device, before it ends with an error.
PATIENCE = timedelta(minutes=30)
# As long as the first process may take for what it does alone, such as checking millions of files.
ALONE = timedelta(days=7)


@dataclass(frozen=True)
class World:
    """This process's place: rank in 0..size - 1 and its device.

    patient: the group in which the others wait for the first process, None for the group of all else.
    """

    rank: int
    size: int
    device: torch.device
    patient: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share_of(self, global_batch: int) -> int:
        """Batch size per process; an InputError where the global batch does not divide evenly."""
        if global_batch % self.size:
            raise input_error(
                "--batch_size",
                f"{global_batch}, over {self.size} processes",
                "a global batch size that the number of processes divides",
                f"use a multiple of {self.size}",
            )
        return global_batch // self.size

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes, the same on each."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.size
        return value

    def mean_on_host(self, value: Tensor) -> Callable[[], float]:
        """Send the mean over all processes to the host; what is returned gives it.

        That waits for the device to have computed the mean, but not for what the device was given to do after it.
        """
        sent = self.mean(value.detach()).to("cpu", non_blocking=True)
        if self.device.type != "cuda":
            return sent.item
        arrival = torch.cuda.Event()
        arrival.record()

        def wait() -> float:
            arrival.synchronize()
            return sent.item()

        return wait

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.mean(torch.tensor(float(flag), device=self.device)) > 0)

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Run `action` in the main process, the others wait, however long it takes; its value there, None elsewhere.

        An InputError there ends all processes, so that none waits for ever.
        """
        return self.together(action if self.is_main else lambda: None)

    def together(self, action: Callable[[], T]) -> T:
        """Run `action` in every process and wait for all, however long it takes; its value here.

        An InputError in any process is raised in all of them, so that none waits for ever and the one that speaks for
        all knows what is wrong.
        """
        value, error = None, None
        try:
            value = action()
        except InputError as caught:
            error = caught
        errors = [error]
        if self.size > 1:
            errors = [None] * self.size
            dist.all_gather_object(errors, error, group=self.patient)
        for first in filter(None, errors):
            raise error or first
        return value

    def told_by_main(self, action: Callable[[], T]) -> T:
        """What `action` gives in the main process, a plain value, in every process; see on_main."""
        told = [self.on_main(action)]
        if self.size > 1:
            dist.broadcast_object_list(told, src=0, group=self.patient)
        return told[0]

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, in DistributedDataParallel where there are several processes; call it, not its `.module`."""
        if self.size == 1:
            return module
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=device_ids)


def choose_device(name: str, local_rank: int) -> torch.device:
    """`auto`, `cpu` or `cuda` -> a device; an InputError where CUDA is asked for and there is none."""
    if name == "cuda" and not torch.cuda.is_available():
        raise input_error("--device", "cuda", "a CUDA device", "use --device cpu, or install a driver and CUDA build")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def set_up(device: torch.device) -> None:
    """Prepare this process for networks on a device: on a CPU it keeps its memory, on CUDA float32 is exact."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        keep_float32_exact()
    else:
        keep_freed_memory()


@contextmanager
def distributed_world(device_name: str = "auto") -> Iterator[World]:
    """Join the process group that the launcher's environment describes, if any; leave it at the end.

    After an error this process stays in it until it ends, as uad.cli.command has it do: else the others would fail with
    a broken connection before this one has said why.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    device = choose_device(device_name, local_rank)
    set_up(device)
    if "RANK" not in os.environ:
        yield World(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    patient = dist.new_group(timeout=ALONE, backend="gloo")
    yield World(dist.get_rank(), dist.get_world_size(), device, patient)
    dist.destroy_process_group()
