"""What was found of a folder's files, remembered beside the folder: a second look takes no longer than listing them."""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from uad.errors import InputError
from uad.files import written_whole

# Lies in the folder that holds the folder of images.
MEMORY_FOLDER = ".uad-checks"
# Of fewer files nothing is kept: looking again takes seconds.
FEW = 500
# A file that was changed so many seconds ago may change again at what its clock takes for the same time.
JUST_NOW = 2.0


class Memory:
    """Values by name, each with the files that it was found in.

    A value is recalled only where all its files have the size and the times of change (of content and of name or
    owner) that they had before it was found, and where the code that reads files is the same. Folders that cannot be
    written are not remembered, damaged memories are forgotten.
    """

    def __init__(self, folder: Path | str, what: str, settings: object = None):
        """what: a word for what is found; settings: whatever else it depends on, with a `repr` that says so."""
        folder = Path(folder).resolve()
        key = hashlib.sha256(repr(settings).encode()).hexdigest()[:16]
        self._path = folder.parent / MEMORY_FOLDER / f"{folder.name}-{what}-{key}.jsonl"
        self._stamps: dict[str, str] = {}
        self._recalled = 0

    def recall(self, files: Mapping[str, Sequence[Path]]) -> dict:
        """The values that still hold, by name; files: name -> those that its value depends on."""
        latest = time.time_ns() - int(JUST_NOW * 1e9)
        stamps = ((name, _stamp(paths, latest)) for name, paths in files.items())
        self._stamps = {name: stamp for name, stamp in stamps if stamp is not None}
        known = {name: value for name, stamp, value in self._lines() if self._stamps.get(name) == stamp}
        self._recalled = len(known)
        return known

    def remember(self, values: Mapping) -> None:
        """Keep values, plain ones, for the files as `recall` found them; all others are forgotten."""
        kept = {name: value for name, value in values.items() if name in self._stamps}
        if len(kept) < FEW or len(kept) == self._recalled:
            return
        with suppress(InputError), written_whole(self._path) as temporary, temporary.open("w") as file:
            file.write(json.dumps(_code()) + "\n")
            file.writelines(json.dumps([name, self._stamps[name], value]) + "\n" for name, value in kept.items())

    def _lines(self) -> Iterator[tuple[str, str, object]]:
        """Name, stamp and value of each line, as far as the file can be read."""
        with suppress(OSError, ValueError, TypeError), self._path.open() as file:
            if json.loads(file.readline()) == _code():
                for line in file:
                    name, stamp, value = json.loads(line)
                    yield name, stamp, value


def _stamp(paths: Sequence[Path], latest: int) -> str | None:
    """Names, sizes and times of files, None where one is missing or was changed after `latest` (nanoseconds)."""
    words = []
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            return None
        if max(found.st_mtime_ns, found.st_ctime_ns) > latest:
            return None
        words.append(f"{path.name} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
    return "; ".join(words)


@lru_cache(maxsize=1)
def _code() -> str:
    """A digest of the code that reads files: another version may find other things."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
