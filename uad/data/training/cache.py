"""Training slices decoded, normalised and resized once, then memory-mapped: every epoch, process and stage reads them.

Values stay the float32 that they were computed as, so that a training is the same bit for bit with a cache and without,
whatever it was begun with. float16 would lose what scanners of 12 bits tell apart; 16-bit integers would not, for half
of the space, but every result would then depend on whether there was room for a cache.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from uad.data.reading.folder import SliceFolder
from uad.distributed import World
from uad.errors import InputError, input_error
from uad.files import TEMPORARY, put_in_place, refusals_named, remove_leftovers

# Raised with every change of what is read from the same files, so that older caches are not used.
VERSION = 1
# A shard is what a killed build loses at most, for every worker; a process keeps all of them open.
LEAST_ROWS, MOST_SHARDS = 16, 128
# In seconds. A temporary file in a shared folder that was not touched for so long has no living writer.
ABANDONED = 24 * 3600.0
PREFIX = "slices-"


def digest_of(made_by: tuple, paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that change with the values of `made_by` and with the files' names, sizes and times."""
    digest = hashlib.sha256(repr(made_by).encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def allocated(path: Path, dtype: np.dtype | type, shape: tuple[int, ...]) -> np.memmap:
    """A new file for a memory-mapped array, with all its space: a disk that fills up later would kill the writer."""
    with refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        array.flush()
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class CacheFiles(Dataset):
    """The files of a cache: shards of equal length, each written whole, in a folder that is named by what they hold.

    As a data set, item `number` writes a shard and is the number of its slices: so workers build a cache. Where that
    cannot be done it is the InputError, not raised: else its text would be about the worker.
    """

    def __init__(self, place: Path, slices: SliceFolder):
        self.slices = slices
        made_by = (VERSION, slices.n_channels, slices.img_size, slices.normalise)
        self.folder = Path(place) / f"{PREFIX}{digest_of(made_by, slices.paths)}"
        self.rows = max(LEAST_ROWS, -(-len(slices) // MOST_SHARDS))
        self.paths = [self.folder / f"{number:03d}.npy" for number in range(-(-len(slices) // self.rows))]
        square = (slices.n_channels, slices.img_size, slices.img_size)
        self.record = np.dtype([("image", np.float32, square), ("affine", np.float64, (4, 4))])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> int | InputError:
        try:
            return self._write(number)
        except InputError as error:
            return error

    def _write(self, number: int) -> int:
        rows, path = self.rows_of(number), self.paths[number]
        # Processes of two hosts or containers that share a folder may have the same number.
        temporary = path.with_name(f"{TEMPORARY}{uuid4().hex}-{path.name}")
        try:
            shard = allocated(temporary, self.record, (len(rows),))
            for row, index in enumerate(rows):
                item = self.slices[index]
                shard[row] = (item["image"].numpy(), item["affine"].numpy())
            shard.flush()
            with refusals_named(path):
                put_in_place(temporary, path)
        finally:
            with suppress(OSError):  # what matters is the error that led here
                temporary.unlink()
        return len(rows)

    def rows_of(self, number: int) -> range:
        """The slices in a shard."""
        return range(number * self.rows, min((number + 1) * self.rows, len(self.slices)))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [number for number, path in enumerate(self.paths) if not path.is_file()]

    def open(self, number: int) -> np.memmap:
        """A shard; InputError where it is not what was written."""
        path = self.paths[number]
        try:
            shard = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, f"unreadable ({error})") from error
        if (shard.dtype, len(shard)) != (self.record, len(self.rows_of(number))):
            raise self._damaged(path, f"{len(shard)} values of type {shard.dtype}")
        return shard

    def prepare(self, shared: bool) -> list[int]:
        """What is missing, after what killed builds and other data left is removed; see cached_slices for `shared`.

        InputError where there is no room for it.
        """
        missing = self.missing()
        with refusals_named(self.folder):
            if not shared:
                for other in self.folder.parent.glob(f"{PREFIX}*"):
                    if other != self.folder:
                        shutil.rmtree(other)
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, ABANDONED if shared else 0.0)
        needed = self.record.itemsize * sum(len(self.rows_of(number)) for number in missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise input_error(
                self.folder,
                f"{free / 2**30:.3g} GiB free",
                f"{needed / 2**30:.3g} GiB for the decoded training images",
                "free some, name a folder on another disk with --cache_dir, or read the files in every epoch with "
                "--cache_dir none: slower, and the same result",
            )
        return missing

    def _damaged(self, path: Path, found: str) -> InputError:
        return input_error(path, found, "decoded images", f"delete {self.folder}: the same command makes it anew")


class CachedSlices(Dataset):
    """The slices of a folder from a complete cache: items as those of SliceFolder, without labels.

    InputError for a damaged cache.
    """

    def __init__(self, files: CacheFiles):
        self.files = files
        self._shards = [files.open(number) for number in range(len(files))]

    def __reduce__(self):
        # A memory-mapped array that is sent to another process arrives as a copy in memory.
        return CachedSlices, (self.files,)

    def __len__(self) -> int:
        return len(self.files.slices)

    def __getitem__(self, index: int) -> dict:
        number, row = divmod(index, self.files.rows)
        record = self._shards[number][row]
        return {
            "image": torch.from_numpy(record["image"].copy()),
            "name": self.files.slices.names[index],
            "patient": self.files.slices.patients[index],
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
    missing = world.on_main(lambda: files.prepare(shared)) or []
    count = world.from_main(len(missing))
    if count:
        loader = DataLoader(files, sampler=missing, batch_size=None, num_workers=min(workers, count))
        already = len(slices) - sum(len(files.rows_of(number)) for number in missing)
        with tqdm(desc="decoding", unit="image", total=len(slices), initial=already, disable=not world.is_main) as bar:
            for written in loader if world.is_main else range(count):
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
    chosen = world.from_main(next(complete, len(candidates)))
    return CachedSlices(candidates[chosen]) if chosen < len(candidates) else None
