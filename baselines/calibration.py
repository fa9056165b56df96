"""Thresholds from healthy images: every process computes its share of them, the main one takes the threshold."""

from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder, collate_slices
from uad.distributed import World
from uad.files import write_json, written_whole

# One process's share of the values; by rank and number of processes.
PART = "healthy_values_{}_of_{}.npy"


def calibrate_on_healthy(
    detector, slices: SliceFolder, path: Path, world: World, batch_size: int, workers: int
) -> None:
    """Save at `path` what a detector takes from healthy images, unless a run before has.

    detector: see baselines.methods. An image's noise depends on its number in the folder alone, so that the threshold
    is the same for any number of processes. The values of a share are kept beside `path` until the threshold is known:
    an interrupted run with as many processes goes on from them.
    """
    if world.any(path.exists()):
        return
    part = path.with_name(PART.format(world.rank, world.size))
    if not part.exists():
        values = _values(detector, slices, world, batch_size, workers)
        with written_whole(part) as temporary, temporary.open("wb") as file:
            np.save(file, values)
    world.barrier()
    world.on_main(lambda: _finish(detector, path, world))


def _values(detector, slices: SliceFolder, world: World, batch_size: int, workers: int) -> np.ndarray:
    """The values of this process's images, (M, ...); (0,) where it has none."""
    own = range(world.rank, len(slices), world.size)
    loader = DataLoader(Subset(slices, own), batch_size, num_workers=workers, collate_fn=collate_slices)
    found = []
    for batch in tqdm(loader, unit="batch", desc="healthy images", disable=not world.is_main):
        found.append(detector.healthy_values(batch["image"].to(world.device), batch["index"].tolist()))
    return np.concatenate(found) if found else np.empty(0)


def _finish(detector, path: Path, world: World) -> None:
    """Write the threshold that the values of all processes give, and remove them."""
    parts = [path.with_name(PART.format(rank, world.size)) for rank in range(world.size)]
    values = [values for values in map(np.load, parts) if len(values)]
    write_json(path, detector.take_threshold(np.concatenate(values)))
    for part in path.parent.glob(PART.format("*", "*")):
        part.unlink()
