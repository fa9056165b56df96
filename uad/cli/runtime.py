"""Flags of device, precision and randomness."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from uad.cli.flags import add, add_switch
from uad.configuration import check_values
from uad.distributed import World, choose_device
from uad.files import read_json
from uad.precision import AMP_MODES, precision_seconds, resolve_amp


@dataclass(frozen=True)
class Runtime:
    """Where and how a command computes; amp as asked for: precision_of says what it means."""

    device: str
    amp: str
    seed: int
    workers: int

    def __post_init__(self):
        """InputError for a number that means nothing."""
        check_values([("--workers", self.workers, "0 or more", self.workers >= 0)])


def add_runtime_flags(parser: argparse.ArgumentParser, compile: bool = False, cuda_graphs: bool = False) -> None:
    """Device, precision, randomness, processes; compile, cuda_graphs: with the flags of these names."""
    group = parser.add_argument_group("runtime")
    add(
        group,
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: CUDA if there is a device, else cpu",
    )
    add(
        group,
        "--amp",
        nargs="?",
        const="auto",
        default="off",
        choices=AMP_MODES,
        help="mixed precision. --amp alone: on CUDA, bf16 if the device has it, else fp16; on a CPU with bfloat16, the "
        "bf16 if it is at least 1.2 times as fast, measured briefly on the networks, else off",
    )
    if compile:
        add_switch(
            group, "--compile", "compile the networks (torch.compile); takes minutes, pays off in long runs on a GPU"
        )
    if cuda_graphs:
        add_switch(group, "--cuda_graphs", "launch the network's kernels together (CUDA graphs); single process only")
    add(group, "--seed", type=int, default=0, help="seed of all randomness")
    add(group, "--workers", type=int, default=2, help="worker processes that read images")
    group.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def runtime_of(args: argparse.Namespace) -> Runtime:
    """What the flags say."""
    return Runtime(args.device, args.amp, args.seed, args.workers)


def graphs_of(args: argparse.Namespace) -> bool:
    """Whether --cuda_graphs is given; InputError where it cannot be meant."""
    if args.cuda_graphs:
        device = choose_device(args.device, 0)
        with_compile = " with --compile" if args.compile else ""
        check_values(
            [
                (
                    "--cuda_graphs",
                    f"device {device.type}{with_compile}",
                    "a CUDA device, without --compile",
                    device.type == "cuda" and not args.compile,
                )
            ]
        )
    return args.cuda_graphs


def precision_of(
    mode: str, world: World, modules: Iterable[nn.Module], training: bool = False, begun: str | None = None
) -> str:
    """What --amp means for these networks, in all processes: see resolve_amp. What was measured is said.

    begun: what the run that is continued began with, which holds instead of a measurement.
    """
    measured: dict[str, float] = {}

    def measure() -> dict[str, float]:
        measured.update(precision_seconds(modules, training))
        return measured

    if begun is not None and mode == "auto" and world.device.type == "cpu":
        return begun
    chosen = world.told_by_main(lambda: resolve_amp(mode, world.device, measure))
    if measured and world.is_main:
        ratio = measured["off"] / measured["bf16"] if measured["bf16"] else 1.0
        print(f"--amp: on this processor bf16 is {ratio:.2g} times as fast as float32; {chosen} is used")
    return chosen


def amp_of_results(out_dir: Path, name: str = "run.json") -> str | None:
    """The precision that a result folder was begun with, None for a new one; name: of the file that says it."""
    path = out_dir / name
    return read_json(path).get("amp") if path.is_file() else None
