"""How what a command does before it computes grows with the number of images: checks, the folder's hash, listing.

    python -m benchmark.scale --images 1000 10000 100000

Images are NPY files of 16 x 16 in a temporary folder, without masks. The first start reads them all, the second knows
them. CPU seconds are those of all processes, memory is that of the command's own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmark.tables import exponents, markdown
from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.configuration import check_values
from uad.data.reading.checks import data_hash
from uad.data.reading.opening import Folders, check_once
from uad.data.reading.remembering import JUST_NOW
from uad.data.reading.settings import Reading
from uad.distributed import World
from uad.inference import peak_memory_mib

SIZE = 16
COMMAND = (sys.executable, "-m", "benchmark.scale")
HEAD = ("images", "start", "seconds", "CPU seconds", "peak memory, MiB")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Request:
    """images: numbers of images to start with; normalise: see Reading; workers: as of a command; start: a folder, in a
    child process.
    """

    images: tuple[int, ...]
    normalise: str
    workers: int
    start: str | None

    def __post_init__(self):
        """InputError for numbers that mean nothing."""
        check_values([("--images", count, "1 or more", count >= 1) for count in self.images])


def get_args_parser() -> Flags:
    """The flags."""
    parser = Flags(__doc__)
    add(parser, "--images", type=int, nargs="+", default=(1000, 10000), help="numbers of images")
    add(parser, "--normalise", default="tissue", help="how intensities are read")
    add(parser, "--workers", type=int, default=2, help="as of a command")
    parser.add_argument("--start", help=argparse.SUPPRESS)  # of a child process
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print the table and how fast it grows."""
    request = Request(tuple(args.images), args.normalise, args.workers, args.start)
    if request.start:
        print(json.dumps(begin(request)))
        return
    found = {}
    for count in request.images:
        with tempfile.TemporaryDirectory() as root:
            folder = make_folder(Path(root) / "healthy", count)
            time.sleep(JUST_NOW)  # younger files are not remembered
            for start in ("first", "second"):
                found[f"{start} start", count] = child(folder, request)
    rows = [(count, start, *numbers.values()) for (start, count), numbers in found.items()]
    print(markdown(HEAD, rows))
    print(exponents(found, request.images))


def make_folder(folder: Path, count: int) -> Path:
    """A folder of `count` images that pass the checks."""
    folder.mkdir()
    image = np.add.outer(np.arange(SIZE), np.arange(SIZE)).astype(np.float32)
    for number in range(count):
        np.save(folder / f"p{number // 50}_{number % 50:03d}.npy", image + number)
    return folder


def child(folder: Path, request: Request) -> dict[str, float]:
    """One start, in a process of its own."""
    words = ["--start", folder, "--normalise", request.normalise, "--workers", request.workers]
    done = subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def begin(request: Request) -> dict[str, float]:
    """What every command does with its folder before it computes."""
    clock, cpu = time.perf_counter(), sum(os.times()[:4])
    folders, reading = Folders(request.start), Reading("custom", 1, SIZE, request.normalise)
    check_once(folders, reading, None, False, request.workers, World(0, 1, CPU))
    folders.open(reading)
    data_hash(request.start)
    return {
        "seconds": time.perf_counter() - clock,
        "cpu": sum(os.times()[:4]) - cpu,
        "mib": peak_memory_mib(CPU),
    }


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
