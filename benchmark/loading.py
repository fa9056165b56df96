"""How many training images a second the loader delivers, from the files and from the cache of decoded images.

    python -m benchmark.loading
    python -m benchmark.loading --img_sizes 256 --workers 2 --augment 1 --seconds 10

The slices are those of one phantom patient, with 4 channels, NIfTI, normalised by `tissue`; nothing is computed with
them. All files are in the system's memory: of a set that does not fit there, the disk decides. Images a CPU-second,
that of the workers included, are what a core gives that does nothing else; other load disturbs them less. The loader
draws only how images are to be augmented. What drawing costs an image, and what augmentation and synthetic lesions of a
batch do on a CPU, is measured in this process, with one thread.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from benchmark.tables import markdown
from uad.cli.command import command_of
from uad.cli.flags import Flags, add
from uad.data.phantoms.brain import make_patient
from uad.data.reading.folder import SliceFolder
from uad.data.reading.formats import write_slice
from uad.data.training.augmentation import augmented, drawn_augmentation
from uad.data.training.cache import cached_slices
from uad.data.training.corruption import corrupted
from uad.data.training.lesions import RECIPES, drawn_lesions
from uad.data.training.loading import StepBatches, TrainingImages, Variation, training_loader
from uad.distributed import World

CHANNELS, FULL_SIZE = 4, 256
RECIPE = RECIPES["intensity"]
COSTS = (
    "read a file",
    "read the cache",
    "draw an augmentation",
    "augment",
    "draw lesions",
    "paint lesions",
)
LEVELS = range(40, 104)
ALONE = World(0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Request:
    """img_sizes: 256 or a part of it; workers: numbers of them; augment: strength; seconds: for each rate; threads: of
    the process that receives the batches.
    """

    img_sizes: tuple[int, ...]
    workers: tuple[int, ...]
    batch_size: int
    augment: float
    seconds: float
    repeats: int
    threads: int


def get_args_parser() -> Flags:
    """The flags."""
    parser = Flags(__doc__)
    add(parser, "--img_sizes", type=int, nargs="+", default=(128, 256), help="pixels a side; they divide 256")
    add(parser, "--workers", type=int, nargs="+", default=(0, 2), help="numbers of worker processes")
    add(parser, "--batch_size", type=int, default=24, help="images a batch")
    add(parser, "--augment", type=float, default=0.0, help="strength of augmentation")
    add(parser, "--seconds", type=float, default=4.0, help="for how long every rate is measured")
    add(parser, "--repeats", type=int, default=3, help="interleaved repeats, of which the median is shown")
    add(parser, "--threads", type=int, default=1, help="threads of the process that receives the batches")
    return parser


def main(args: argparse.Namespace) -> None:
    """Measure and print tables."""
    request = Request(**{name: getattr(args, name) for name in Request.__dataclass_fields__})
    torch.set_num_threads(request.threads)
    volumes = np.pad(make_patient(seed=0, number=1).images[..., LEVELS], ((0, 0), (8, 8), (8, 8), (0, 0)))
    rows, costs = [], []
    with tempfile.TemporaryDirectory() as place:
        for size in request.img_sizes:
            slices = written(Path(place) / str(size), volumes, size)
            cached = cached_slices(slices, Path(place), True, ALONE, workers=2)
            rows += [row_of(request, size, workers, slices, cached) for workers in request.workers]
            costs.append((size, *costs_of(request, slices, cached)))
    print("Images a second, and a CPU-second, median of interleaved repeats:")
    print(markdown(("pixels", "workers", "files", "a CPU-second", "cache", "a CPU-second", "times as many"), rows))
    print("\nMilliseconds an image, one thread:")
    print(markdown(("pixels", *COSTS), costs))


def written(folder: Path, volumes: np.ndarray, size: int) -> SliceFolder:
    """The slices of volumes (C, 256, 256, D), averaged to `size` pixels a side, as a data set."""
    step = FULL_SIZE // size
    blocks = volumes.reshape(CHANNELS, size, step, size, step, -1).mean((2, 4))
    for level, image in enumerate(np.moveaxis(blocks, -1, 0)):
        write_slice(folder / f"P_{level:03d}.nii.gz", image, np.diag([step, step, 1, 1]))
    return SliceFolder(folder, CHANNELS, size, "tissue")


def row_of(request: Request, size: int, workers: int, slices: Dataset, cached: Dataset) -> tuple:
    """A row of the first table."""
    variation = Variation(horizontal_flip=True, augment=request.augment, seed=0)
    both = [TrainingImages(images, variation) for images in (slices, cached)]
    pairs = [[rates(images, workers, request) for images in both] for _ in range(request.repeats)]
    medians = np.median(pairs, axis=0).ravel()
    return size, workers, *medians.tolist(), float(np.median([fast[0] / plain[0] for plain, fast in pairs]))


def rates(dataset: Dataset, workers: int, request: Request) -> tuple[float, float]:
    """Images a second and a CPU-second, after what the workers have prepared while they started."""
    batches = StepBatches(len(dataset), request.batch_size, rank=0, size=1, seed=0, start=0, stop=10**6)
    loader = training_loader(dataset, batches, workers, pin_memory=False)
    start, delivered, prepared = np.zeros(2), 0, 2 * workers + 1
    for number, batch in enumerate(loader, 1):
        if number <= prepared:
            start = clocks()
            continue
        delivered += len(batch["position"])
        if time.perf_counter() - start[0] > request.seconds:
            spent = clocks() - start
            break
    return tuple(delivered / spent)


def clocks() -> np.ndarray:
    """Seconds, and CPU-seconds of this process and of its workers, since some moment."""
    ticks = 0
    for worker in multiprocessing.active_children():
        # After the name in brackets, from the third field on; 14 and 15 are the times in user and system mode.
        fields = Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return np.array([time.perf_counter(), time.process_time() + ticks / os.sysconf("SC_CLK_TCK")])


def costs_of(request: Request, slices: SliceFolder, cached: Dataset) -> list[float]:
    """CPU milliseconds an image of each of COSTS."""
    size, count = slices.img_size, request.batch_size
    images = torch.stack([cached[index % len(cached)]["image"] for index in range(count)])
    donors = images.roll(1, 0)
    rng = np.random.default_rng(0)

    def changes():
        return drawn_augmentation(CHANNELS, size, 1.0, rng)

    def lesions():
        return drawn_lesions(CHANNELS, size, RECIPE, rng)

    how, where = (default_collate([draw() for _ in range(count)]) for draw in (changes, lesions))
    calls: tuple[tuple[Callable[[int], object], int], ...] = (
        (lambda call: slices[call % len(slices)], 1),
        (lambda call: cached[call % len(cached)], 1),
        (lambda call: changes(), 1),
        (lambda call: augmented(images, how), count),
        (lambda call: lesions(), 1),
        (lambda call: corrupted(images, donors, where, RECIPE), count),
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    costs = [milliseconds(call, request.seconds / 4) / share for call, share in calls]
    torch.set_num_threads(threads)
    return costs


def milliseconds(call: Callable[[int], object], seconds: float) -> float:
    """CPU milliseconds of a call, the mean over calls 0, 1, ..."""
    done, started, clock = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - clock < seconds:
        call(done)
        done += 1
    return 1000 * (time.process_time() - started) / done


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
