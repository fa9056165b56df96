"""What saving costs an image: the images of a result folder are saved again, whole and as maps, by one thread and more.

    python -m benchmark.saving --results results/mine --images 48

All of it is written to a temporary folder beside the results, so that their disk is measured. CPU time is that of all
threads; the seconds on the wall are those of a process that does nothing else.
"""

import argparse
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmark.tables import markdown
from uad.cli.command import command_of
from uad.cli.flags import Flags, add, require
from uad.configuration import check_values
from uad.inference import WRITERS
from uad.results import KEPT, ImageResult, ResultFolder, ResultWriter

COUNTS = ("images", "batch_size")
HEAD = ("kept", "threads", "CPU ms an image", "ms an image", "KiB an image")


@dataclass(frozen=True)
class Request:
    """results: a result folder that holds everything; images: how many of it; batch_size: to be saved together."""

    results: str
    images: int
    batch_size: int

    def __post_init__(self):
        """InputError for numbers that mean nothing."""
        check_values((f"--{name}", getattr(self, name), "1 or more", getattr(self, name) >= 1) for name in COUNTS)


def get_args_parser() -> Flags:
    """The flags."""
    parser = Flags(__doc__)
    add(parser, "--results", help="a result folder that was saved with --save all", shown="required")
    add(parser, "--images", type=int, default=48, help="images to save")
    add(parser, "--batch_size", type=int, default=8, help="images that are saved together")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure, and print a table."""
    require(args, "results")
    request = Request(args.results, args.images, args.batch_size)
    folder = ResultFolder(request.results)
    images = [loaded(folder, name) for name in folder.names[: request.images]]
    rows = [
        (kept, threads, *measured(folder, images, kept, threads, request.batch_size))
        for kept in KEPT
        for threads in (1, WRITERS)
    ]
    print(markdown(HEAD, rows))


def loaded(folder: ResultFolder, name: str) -> ImageResult:
    """An image as it was when it was saved."""
    extras = folder.record(name)["extras"]
    found = folder.load(name, extras)
    arrays = found.image, found.reconstruction, found.anomaly_map, found.label
    return ImageResult(name, found.patient, found.affine, *arrays, found.extras)


def measured(
    folder: ResultFolder, images: list[ImageResult], kept: str, threads: int, batch_size: int
) -> tuple[float, float, float]:
    """CPU and wall milliseconds and KiB an image."""
    with tempfile.TemporaryDirectory(dir=folder.folder.parent) as root, ThreadPoolExecutor(threads) as pool:
        writer = ResultWriter(root, folder.run | {"save": kept})
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(images), batch_size):
            writer.save_all(images[start : start + batch_size], pool.map)
        spent = time.process_time() - cpu, time.perf_counter() - wall
        size = sum(path.stat().st_size for path in Path(root).rglob("*.nii.gz"))
    return (*(1e3 * seconds / len(images) for seconds in spent), size / 2**10 / len(images))


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
