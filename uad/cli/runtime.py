"""Flags of device, precision and randomness."""

import argparse
from dataclasses import dataclass

from uad.cli.flags import add, add_switch
from uad.configuration import check_values
from uad.precision import AMP_MODES


@dataclass(frozen=True)
class Runtime:
    """Where and how a command computes; amp as asked for: uad.precision.resolve_amp says what it means on a device."""

    device: str
    amp: str
    seed: int
    workers: int

    def __post_init__(self):
        """InputError for a number that means nothing."""
        check_values([("--workers", self.workers, "0 or more", self.workers >= 0)])


def add_runtime_flags(parser: argparse.ArgumentParser, compile: bool = False) -> None:
    """Device, precision, randomness, processes; compile: with --compile."""
    group = parser.add_argument_group("runtime")
    add(
        group,
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: CUDA where there is a device",
    )
    add(
        group,
        "--amp",
        nargs="?",
        const="auto",
        default="off",
        choices=AMP_MODES,
        help="mixed precision; alone: bf16 where the device has it, else fp16 on CUDA and off on a CPU",
    )
    if compile:
        add_switch(group, "--compile", "compile the networks (torch.compile): worth its minutes in long runs on a GPU")
    add(group, "--seed", type=int, default=0, help="seed of all randomness")
    add(group, "--workers", type=int, default=2, help="worker processes that read images")
    group.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def runtime_of(args: argparse.Namespace) -> Runtime:
    """What the flags say."""
    return Runtime(args.device, args.amp, args.seed, args.workers)
