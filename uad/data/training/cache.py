"""Training slices decoded, normalised and resized once, then memory-mapped: every epoch, process and stage reads them.

Values stay the float32 that they were computed as, so that a training is the same bit for bit with a cache and without,
whatever it was begun with. float16 would lose what scanners of 12 bits tell apart; 16-bit integers would not, for half
of the space, but every result would then depend on whether there was room for a cache.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder
from uad.data.training.shards import OpenShards, ShardFolder, digest_of
from uad.distributed import World
from uad.errors import InputError

# Raised with every change of what is read from the same files, so that older caches are not used.
VERSION = 1
PREFIX = "slices-"


class CacheFiles(ShardFolder, Dataset):
    """The files of a cache of the slices of a folder.

    As a data set, item `number` writes a shard and is the number of its slices: so workers build a cache. Where that
    cannot be done it is the InputError, not raised: else its text would be about the worker.
    """

    def __init__(self, place: Path, slices: SliceFolder):
        made_by = (VERSION, slices.n_channels, slices.img_size, slices.normalise)
        square = (slices.n_channels, slices.img_size, slices.img_size)
        super().__init__(
            place,
            PREFIX,
            digest_of(made_by, slices.paths),
            np.dtype([("image", np.float32, square), ("affine", np.float64, (4, 4))]),
            len(slices),
            "decoded training images",
            "name a folder on another disk with --cache_dir, or read the files in every epoch with --cache_dir none: "
            "slower, and the same result",
        )
        self.slices = slices

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> int | InputError:
        rows = self.rows_of(number)
        try:
            with self.writing(number) as shard:
                for row, index in enumerate(rows):
                    item = self.slices[index]
                    shard[row] = (item["image"].numpy(), item["affine"].numpy())
        except InputError as error:
            return error
        return len(rows)


class CachedSlices(Dataset):
    """The slices of a folder from a complete cache: items as those of SliceFolder, without labels.

    InputError for a damaged cache.
    """

    def __init__(self, files: CacheFiles):
        self.slices, self.records = files.slices, OpenShards(files)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        return {
            "image": torch.from_numpy(record["image"].copy()),
            "name": self.slices.names[index],
            "patient": self.slices.patients[index],
            "index": index,
            "affine": torch.from_numpy(record["affine"].copy()),
        }


def cached_slices(slices: SliceFolder, place: Path, shared: bool, world: World, workers: int) -> CachedSlices:
    """The slices by way of a cache in the folder `place`, which is built, or completed, where it is not there.

    The main process builds it, with so many worker processes. shared: whether other runs may use the place at the same
    time; a place of the run's own then holds nothing but this cache afterwards. InputError as SliceFolder, for a place
    that cannot be written and for a full disk.
    """
    files = CacheFiles(place, slices)
    missing = world.told_by_main(lambda: files.prepare(shared))
    if missing:
        loader = DataLoader(files, sampler=missing, batch_size=None, num_workers=min(workers, len(missing)))
        already = len(slices) - sum(len(files.rows_of(number)) for number in missing)
        with tqdm(desc="decoding", unit="image", total=len(slices), initial=already, disable=not world.is_main) as bar:
            for written in loader if world.is_main else missing:
                # All meet after every shard: to wait for the whole cache could take longer than their patience.
                bar.update(world.on_main(partial(_count_of, written)) or 0)
    return CachedSlices(files)


def _count_of(written: int | InputError) -> int:
    if isinstance(written, InputError):
        raise written
    return written


def found_cache(slices: SliceFolder, places: Iterable[Path], world: World) -> CachedSlices | None:
    """The slices from the first of the places that has a complete cache of them, if any; the same in all processes."""
    candidates = [CacheFiles(place, slices) for place in places]
    complete = (number for number, files in enumerate(candidates) if not files.missing())
    chosen = world.told_by_main(lambda: next(complete, len(candidates)))
    return CachedSlices(candidates[chosen]) if chosen < len(candidates) else None
