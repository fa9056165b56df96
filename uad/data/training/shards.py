"""A cache on disk: a folder, named by what it holds, of memory-mapped files of equal length, each written whole.

So a build that was killed goes on with the shards that are missing, and no two processes ever write into one file,
which network file systems do not allow for.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import numpy as np

from uad.errors import InputError, input_error
from uad.files import TEMPORARY, put_in_place, refusals_named, remove_leftovers

# A shard is what a killed build loses at most, for every process that writes; one that reads keeps all of them open.
LEAST_ROWS, MOST_SHARDS = 16, 128
# In seconds. A temporary file in a shared folder that was not touched for so long has no living writer.
ABANDONED = 24 * 3600.0
DIGITS = 16


def digest_of(made_by: tuple, paths: Iterable[Path]) -> str:
    """16 hexadecimal digits that change with the values of `made_by` and with the files' names, sizes and times."""
    digest = hashlib.sha256(repr(made_by).encode())
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:DIGITS]


class ShardFolder:
    """The shards of `count` records of type `record` in `place`, in a folder named by `prefix` and a digest.

    holds: what they are, for messages; without_room: what to do, besides freeing some, where the disk is too full.
    """

    def __init__(
        self, place: Path | str, prefix: str, digest: str, record: np.dtype, count: int, holds: str, without_room: str
    ):
        self.prefix, self.record, self.count = prefix, record, count
        self.holds, self.without_room = holds, without_room
        self.folder = Path(place) / f"{prefix}{digest}"
        self.rows = max(LEAST_ROWS, -(-count // MOST_SHARDS))
        self.paths = [self.folder / f"{number:03d}.npy" for number in range(-(-count // self.rows))]

    def rows_of(self, number: int) -> range:
        """The records in a shard."""
        return range(number * self.rows, min((number + 1) * self.rows, self.count))

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [number for number, path in enumerate(self.paths) if not path.is_file()]

    @contextmanager
    def writing(self, number: int) -> Iterator[np.memmap]:
        """A shard's records (R,), to be filled in; it gets its name at the end, and on an error nothing is left.

        InputError where the system refuses to write.
        """
        path = self.paths[number]
        # Processes of two hosts or containers that share a folder may have the same number.
        temporary = path.with_name(f"{TEMPORARY}{uuid4().hex}-{path.name}")
        try:
            shard = _allocated(temporary, self.record, len(self.rows_of(number)))
            yield shard
            shard.flush()
            with refusals_named(path):
                put_in_place(temporary, path)
        finally:
            with suppress(OSError):  # what matters is the error that led here
                temporary.unlink()

    def open(self, number: int) -> np.memmap:
        """A shard; InputError where it is not what was written."""
        path = self.paths[number]
        try:
            shard = np.load(path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(path, f"unreadable ({error})") from error
        if (shard.dtype, shard.shape) != (self.record, (len(self.rows_of(number)),)):
            raise self._damaged(path, f"an array of shape {shard.shape} and type {shard.dtype}")
        return shard

    def prepare(self, shared: bool) -> list[int]:
        """What is missing, after what killed builds, other data and earlier versions left is removed.

        shared: whether other runs may use the place at the same time; else it holds nothing but this cache of its kind
        afterwards. InputError where there is no room for what is missing.
        """
        missing = self.missing()
        with refusals_named(self.folder):
            if not shared:
                self._remove_others()
            if missing:
                self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder, ABANDONED if shared else 0.0)
        needed = self.record.itemsize * sum(len(self.rows_of(number)) for number in missing)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            expected = f"{needed / 2**30:.3g} GiB for the {self.holds}"
            raise input_error(self.folder, f"{free / 2**30:.3g} GiB free", expected, f"free some, {self.without_room}")
        return missing

    def _remove_others(self) -> None:
        """Remove caches of the same kind: folders, and the whole files of earlier versions."""
        digest = "[0-9a-f]" * DIGITS
        for other in self.folder.parent.glob(f"{self.prefix}{digest}*"):
            if other.is_dir() and other != self.folder:
                shutil.rmtree(other)
            elif other.suffix == ".npy":
                other.unlink()

    def _damaged(self, path: Path, found: str) -> InputError:
        return input_error(path, found, self.holds, "delete it: the same command makes it anew")


def _allocated(path: Path, record: np.dtype, rows: int) -> np.memmap:
    """A new file for memory-mapped records, with all its space: a disk that fills up later would kill the writer."""
    with refusals_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, "w+", record, (rows,))
        array.flush()
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


class OpenShards:
    """The records of a complete cache, by number; InputError for a damaged one."""

    def __init__(self, files: ShardFolder):
        self.files = files
        self._shards = [files.open(number) for number in range(len(files.paths))]

    def __reduce__(self):
        # A memory-mapped array that is sent to another process arrives as a copy in memory.
        return OpenShards, (self.files,)

    def __len__(self) -> int:
        return self.files.count

    def __getitem__(self, index: int) -> np.void:
        number, row = divmod(index, self.files.rows)
        return self._shards[number][row]
