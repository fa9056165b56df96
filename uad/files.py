"""Files are written whole or not at all: a temporary file beside the target, then one rename, both flushed to disk."""

import csv
import errno
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from uad.errors import InputError, input_error

TEMPORARY = ".tmp-"
# How the system refuses to write: no space, quota or file limit, read-only, no permission, no folder, failing device.
_REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
    errno.ENAMETOOLONG, errno.EIO,
}  # fmt: skip


@contextmanager
def written_whole(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; on success flush it to disk and rename it to `path`.

    The temporary name keeps the target's suffixes, for writers that choose the format by name. On any error the
    temporary file is removed and an older `path` stays as it was. InputError where the system refuses to write.
    """
    path = Path(path)
    temporary = _temporary(path)
    with refusals_named(path):
        _make_folder(path.parent)
        try:
            yield temporary
            put_in_place(temporary, path)
        finally:
            with suppress(OSError):  # what matters is the error that led here
                temporary.unlink()


def put_in_place(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file to disk and give it its name, durably."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    _flush_folder(path.parent)


def write_together(stages: Sequence[Mapping[Path, Callable[[], bytes]]], spread: Callable = map) -> None:
    """Write many files, each whole; those of a stage get their names once all of the stages before are durable.

    stages: path -> what gives the file's bytes, made and flushed side by side where `spread`, a map, runs its calls in
    several threads. All files are flushed before the first gets its name, and each folder once a stage: flushing waits
    for the disk, which serves many requests in about the time of one. On any error no temporary file is left, and what
    has its name already is whole. InputError where the system refuses to write.
    """
    contents = {path: content for stage in stages for path, content in stage.items()}
    try:
        for folder in {path.parent for path in contents}:
            with refusals_named(folder):
                _make_folder(folder)
        _all_of(spread, _write_flushed, contents.items())
        for stage in stages:
            for path in stage:
                with refusals_named(path):
                    _temporary(path).replace(path)
            _all_of(spread, _flush_named, {path.parent for path in stage})
    finally:
        for path in contents:
            with suppress(OSError):
                _temporary(path).unlink()


def _all_of(spread: Callable, function: Callable, items) -> None:
    """Call the function with every item and wait for all, then raise the first error: no call goes on unseen."""
    for error in list(spread(partial(_error_of, function), list(items))):
        if error is not None:
            raise error


def _error_of(function: Callable, item) -> Exception | None:
    try:
        function(item)
    except Exception as error:
        return error
    return None


def _write_flushed(item: tuple[Path, Callable[[], bytes]]) -> None:
    path, content = item
    with refusals_named(path), _temporary(path).open("wb") as file:
        file.write(content())
        file.flush()
        os.fsync(file.fileno())


def _flush_named(folder: Path) -> None:
    with refusals_named(folder):
        _flush_folder(folder)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")


@contextmanager
def refusals_named(path: Path | str) -> Iterator[None]:
    """A full disk, a read-only folder and the like become an InputError that names `path`.

    Writers that wrap the system's error in one of their own are looked through.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        refusal = _refusal_behind(error)
        if refusal is None:
            raise
        file = next((f": {level} is a file" for level in Path(path).parents if level.is_file()), "")
        raise input_error(
            path,
            f"cannot be written: {refusal.strerror}{file}",
            "a writable folder on a disk with free space",
            "mend that and run the same command again; what was written before is whole and stays",
        ) from error


def _refusal_behind(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REFUSALS:
            return error
        error = error.__cause__ or error.__context__
    return None


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably: each is flushed into the folder that holds it."""
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # in /proc and the like, which hold no other folders than their own
        raise PermissionError(errno.EPERM, "no folder can be made here", str(folder)) from error
    for level in missing:
        _flush_folder(level.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems keep names durable without it
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Delete temporary files that a killed process left in a folder, those untouched for `older_than` seconds."""
    limit = time.time() - older_than
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(FileNotFoundError):  # another process was faster
            if path.stat().st_mtime <= limit:
                path.unlink()


def write_text(path: Path | str, text: str) -> None:
    """Write a text file whole (UTF-8)."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path | str, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table whole: a line of column names, then the rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_text(path, text.getvalue())


def write_json(path: Path | str, value) -> None:
    """Write a JSON file whole; NaN and infinity are refused, for they are not JSON."""
    write_text(path, json_text(value))


def json_text(value) -> str:
    """A value as the text of a JSON file; ValueError for NaN and infinity."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: Path | str) -> dict:
    """Read a JSON file that holds an object; InputError where it is missing, damaged or holds anything else."""
    remedy = "restore it, or delete it and run the command that wrote it again"
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise input_error(path, f"unreadable ({type(error).__name__}: {error})", "a JSON object", remedy) from error
    if not isinstance(value, dict):
        raise input_error(path, f"a JSON {type(value).__name__}", "a JSON object", remedy)
    return value
