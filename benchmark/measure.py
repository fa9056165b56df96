"""Timing of variants against each other, and the limits of the machine that they run on."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# Convolutions (channels, size) like those of the networks; the matrix size is for a CPU and a GPU.
CONVOLUTIONS = ((128, 32), (256, 16), (256, 32))
MATRIX_SIZE = {"cpu": 1024, "cuda": 8192}
PEAK_SECONDS = 0.5


@dataclass(frozen=True)
class Spread:
    """The median of repeats with the least and the greatest."""

    median: float
    least: float
    greatest: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g}..{self.greatest:.3g})"


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(slow: Sequence[float], fast: Sequence[float]) -> Spread:
    """How many times faster, repeat by repeat: slow load on a machine falls on both sides of each."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def timed(call: Callable[[], object], clock: str, device: torch.device) -> float:
    """Seconds of one call. clock: `wall`, or `cpu`, the process's CPU seconds, which other load hardly disturbs."""
    synchronise(device)
    start = CLOCKS[clock]()
    call()
    synchronise(device)
    return CLOCKS[clock]() - start


def synchronise(device: torch.device) -> None:
    """Wait for a CUDA device; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    variants: Mapping[str, Callable[[], object]], repeats: int, clock: str, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every variant in every repeat; each is run once before, and in a repeat all follow each other."""
    for call in variants.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, call in variants.items():
            seconds[name].append(timed(call, clock, device))
    return seconds


def gflop(call: Callable[[], object]) -> float:
    """Floating-point operations of a call in 10^9, a multiplication and an addition counted as two."""
    # Here: it brings compilers with it, which the processes that are timed do without.
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def peaks(clock: str, device: torch.device) -> dict[str, float]:
    """The best GFLOP/s seen of 3x3 convolutions (batch 8, channels-last) and of matrix products, by precision."""
    best = {}
    for dtype, name in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        best[f"convolution {name}"] = max(_convolution_rate(c, s, dtype, clock, device) for c, s in CONVOLUTIONS)
        size = MATRIX_SIZE[device.type]
        a = torch.randn(size, size, device=device, dtype=dtype)
        best[f"matrix {name}"] = _rate(lambda a=a: a @ a, 2 * size**3 / 1e9, clock, device)
    return best


def _convolution_rate(channels: int, size: int, dtype: torch.dtype, clock: str, device: torch.device) -> float:
    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, weight = tensor(8, channels, size, size), tensor(channels, channels, 3, 3)
    work = 2 * 8 * size**2 * channels**2 * 9 / 1e9
    return _rate(lambda: F.conv2d(x, weight, padding=1), work, clock, device)


@torch.inference_mode()
def _rate(call: Callable[[], object], work: float, clock: str, device: torch.device) -> float:
    """GFLOP/s of the fastest of the calls that fit into PEAK_SECONDS."""
    call()
    fastest, end = float("inf"), time.perf_counter() + PEAK_SECONDS
    while time.perf_counter() < end:
        fastest = min(fastest, timed(call, clock, device))
    return work / fastest
