"""Detection over a folder: every method gives the seam `Method`, and this loop does the rest.

Images are shared over processes, those that are done already are skipped, and each image has its own generator, so that
its map depends on neither batch size, order nor number of processes.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder, collate_slices
from uad.distributed import World
from uad.files import read_json
from uad.neighbours import DISTANCE_KEY, distance_of
from uad.randomness import keyed_generator
from uad.results import ALL, DISEASED_KEY, MAPS, ImageResult, ResultWriter
from uad.sides import one_sided

# Batches whose writing may lag behind the computation; more would only hold memory.
LAG = 2
# Threads that write. They compress, which takes two cores about as long as a GPU takes for the images, and wait for the
# disk, which serves four at a time as fast as more.
WRITERS = 4
# From this many images on, only maps are kept by default: everything takes half a gigabyte per thousand images of
# 4 x 128 x 128.
MANY_IMAGES = 2000
PROCESS_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Reconstruction:
    """What a method says of a batch.

    image: the healthy counterpart (N, C, S, S); anomaly_map: (N, S, S), non-negative, one scale for a data set;
    extras: further arrays (N, ...) to save, by name; numbers: further numbers (N,) for the records.
    """

    image: Tensor
    anomaly_map: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """The seam between a method and everything that judges it."""

    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """images (N, C, S, S) in [0, 1]; one generator per image, on the images' device."""


def detect_folder(
    method: Method,
    slices: SliceFolder,
    writer: ResultWriter,
    world: World,
    batch_size: int,
    seed: int,
    workers: int,
    compare_sides: bool = False,
) -> None:
    """Run a method on this process's share of a folder and save every image that is not saved yet.

    compare_sides: maps are compared with those of the other side, see uad.sides. Worker processes decode the images to
    come, and threads write those that are done, while the method computes.
    """
    own = [i for i in range(world.rank, len(slices), world.size) if not writer.is_done(slices.names[i])]
    loader = DataLoader(Subset(slices, own), batch_size, num_workers=workers, collate_fn=collate_slices)
    bar = tqdm(total=len(own), unit="image", desc="detecting", disable=not world.is_main)
    with ThreadPoolExecutor(WRITERS) as writers, _background(LAG) as save:
        for batch in loader:
            images = batch["image"].to(world.device)
            generators = [keyed_generator(seed, name, device=world.device) for name in batch["name"]]
            start = time.perf_counter()
            result = method.reconstruct(images, generators)
            if compare_sides:
                maps = one_sided(result.anomaly_map, images, batch["affine"].numpy(), batch["name"])
                result = replace(result, anomaly_map=maps)
            if world.device.type == "cuda":
                torch.cuda.synchronize(world.device)
            seconds = (time.perf_counter() - start) / len(images)
            cost = {"seconds": seconds, "peak_memory_mib": peak_memory_mib(world.device)}
            places = zip(batch["index"].tolist(), batch["affine"], strict=True)
            records = [cost | known_of(slices, index, affine.numpy()) for index, affine in places]
            save(_save, writer, batch, result, records, writers.map)
            bar.update(len(images))
    bar.close()
    world.barrier()


def what_to_keep(out_dir: Path, chosen: str | None, images: int) -> str:
    """What a result folder keeps, one of uad.results.KEPT: as chosen, else as the folder was begun, else all of few
    images and the maps of many.
    """
    path = out_dir / "run.json"
    if chosen is None and path.exists():
        return read_json(path).get("save", ALL)
    return chosen or (ALL if images < MANY_IMAGES else MAPS)


def result_writer(out_dir: Path, info: dict, world: World) -> ResultWriter:
    """The writer of a result folder, for every process; the main one makes or checks the folder before the others look.

    Raises InputError where the folder holds the results of other settings.
    """
    world.on_main(lambda: ResultWriter(out_dir, info))
    return ResultWriter(out_dir, info)


@contextmanager
def _background(lag: int) -> Iterator[Callable]:
    """Gives a function that runs its arguments, a function and its arguments, in one thread and in order.

    It waits where more than `lag` calls are pending. What a call raises is raised by a later one or at the end.
    """
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(1) as thread:

        def run(*call) -> None:
            pending.append(thread.submit(*call))
            while len(pending) > lag:
                pending.popleft().result()

        yield run
        while pending:
            pending.popleft().result()


def peak_memory_mib(device: torch.device) -> float:
    """The most memory held so far in MiB: of a CUDA device what was allocated, else the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not `ru_maxrss`: on Linux a new program inherits that from the process that started it.
    status = dict(line.split(":", 1) for line in PROCESS_STATUS.read_text().splitlines())
    return int(status["VmHWM"].removesuffix("kB")) / 2**10


def known_of(slices: SliceFolder, index: int, affine: np.ndarray) -> dict[str, float]:
    """What evaluation has to know of an image: how far the slices of its scan are apart, where the file says it, and
    whether it is diseased, where a release does.
    """
    known = {
        DISTANCE_KEY: distance_of(slices.paths[index], affine),
        DISEASED_KEY: slices.diseased.get(slices.names[index]),
    }
    return {key: value for key, value in known.items() if value is not None}


def _save(
    writer: ResultWriter, batch: dict, result: Reconstruction, records: list[dict[str, float]], spread: Callable
) -> None:
    image, reconstruction = batch["image"].numpy(), result.image.float().cpu().numpy()
    maps = result.anomaly_map.float().cpu().numpy()
    extras = {name: value.cpu().numpy() for name, value in result.extras.items()}
    numbers = {name: value.float().cpu().tolist() for name, value in result.numbers.items()}
    images = [
        ImageResult(
            name,
            batch["patient"][i],
            batch["affine"][i].numpy(),
            image[i],
            reconstruction[i],
            maps[i],
            label=None if label is None else label.numpy(),
            extras={kind: value[i] for kind, value in extras.items()},
            record={kind: value[i] for kind, value in numbers.items()} | records[i],
        )
        for i, (name, label) in enumerate(zip(batch["name"], batch["label"], strict=True))
    ]
    writer.save_all(images, spread)
