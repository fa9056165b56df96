"""What a user points at -> scans and single slices: files, folders of patients, folders of slices, DICOM series."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.checks import data_hash
from uad.data.reading.decoding import EXTENSIONS, IMAGE_EXTENSIONS, NIFTI_EXTENSIONS, cannot_open
from uad.data.reading.entries import Source
from uad.data.reading.formats import slice_stem
from uad.data.reading.layouts import Scan, find_scans, fingerprint, scans_of_files
from uad.data.reading.listing import list_folder
from uad.data.reading.naming import endings_of, named
from uad.data.reading.volumes import VOLUME_EXTENSIONS, holds_dicom, nifti_shape, read_header, volume_stem
from uad.errors import InputError, Problem, input_error

EXPECTED = "a volume, a slice, a folder of patients or of slices, or the folder of a DICOM series"
OTHER_INPUT = "name another file or folder"
PLAIN_FILES = (*IMAGE_EXTENSIONS, ".npy")
# Single slices that are opened and judged together.
TOGETHER = 64


class Item(NamedTuple):
    """One thing to judge: a scan, or the file of a single slice."""

    name: str
    scan: Scan | None = None
    slice_file: Path | None = None

    @property
    def files(self) -> dict[str, list]:
        """Bytes and times of its files by their paths: what tells it from another input of its name."""
        return fingerprint(self.scan.paths if self.scan else [self.slice_file])

    @property
    def shown(self) -> dict[str, list]:
        """Where each channel of a scan lies: file, and its number there."""
        files = self.scan.files.items() if self.scan else ()
        return {shows: [*(str(path.resolve()) for path in source.paths), source.component] for shows, source in files}

    @property
    def where(self) -> str:
        """What the user may look for."""
        return str(self.slice_file or self.scan.where)


def slices_hash(inputs: Sequence[Path], items: Sequence[Item]) -> str | None:
    """The hash of the images where they are the slices of a single folder, see uad.data.reading.checks; else None."""
    alone = len(inputs) == 1 and inputs[0].is_dir() and all(item.scan is None for item in items)
    return data_hash(inputs[0]) if alone else None


class Inputs(NamedTuple):
    """items: everything to judge, sorted by name; left_out: a line on each folder that holds other files."""

    items: list[Item]
    left_out: list[str]


def find_items(
    inputs: Sequence[Path], assigned: Mapping[str, Path], channels: Sequence[str] | None, n_channels: int
) -> Inputs:
    """Everything to judge.

    assigned: channel -> file, of one scan; channels: the names of the model's channels, None where it knows none: then
    a scan is one file that holds them all. Raises InputError with all that is missing, and for two of one name.
    """
    items, problems, files, left_out = [], [], [], []
    if assigned:
        items.append(_assigned_scan(assigned, channels, n_channels))
    for path in inputs:
        try:
            if path.is_dir():
                found = _of_folder(path, channels, n_channels)
                items += found.items
                left_out += found.left_out
            elif is_slice(path):
                items.append(Item(slice_stem(path), slice_file=path))
            else:
                files.append(path)
        except InputError as error:
            problems += error.problems
    if files and not problems:  # a file that cannot be read would be missed once more here
        try:
            items += [Item(scan.name, scan) for scan in _scans(files, channels, n_channels)]
        except InputError as error:
            problems += error.problems
    names = [item.name for item in items]
    for name in sorted({name for name in names if names.count(name) > 1}):
        where = ", ".join(item.where for item in items if item.name == name)
        problems.append(
            Problem(
                where,
                f"{names.count(name)} inputs called {name}",
                "different names",
                "rename one, or name the folder above them",
            )
        )
    if not items and not problems:
        problems.append(Problem("INPUT", "nothing to judge", EXPECTED, "name a file or a folder"))
    if problems:
        raise InputError(problems)
    return Inputs(sorted(items), left_out)


def is_slice(path: Path) -> bool:
    """Whether a file holds a single slice, by its header.

    NIfTI of (H, W) or (H, W, 1, ...) is a slice; three longer axes are a volume, however short one of them is.
    InputError for what is missing, unreadable or of no known type.
    """
    if not path.exists():
        raise input_error(path, "no such file or folder", EXPECTED, f"correct the path, seen from {Path.cwd()}")
    name = path.name.lower()
    if name.endswith(PLAIN_FILES):
        return True
    if not name.endswith(VOLUME_EXTENSIONS):
        expected = f"a file ending in {', '.join((*EXTENSIONS, *VOLUME_EXTENSIONS[len(NIFTI_EXTENSIONS) :]))}"
        raise input_error(path, f"a file of unknown type ({path.suffix or 'no extension'})", expected, "convert it")
    if not name.endswith(NIFTI_EXTENSIONS):
        return False
    shape = nifti_shape(path)
    return len(shape) == 2 or (len(shape) in (3, 4) and shape[2] == 1)


def _assigned_scan(assigned: Mapping[str, Path], channels: Sequence[str] | None, n_channels: int) -> Item:
    needed = channels or [f"channel_{number}" for number in range(n_channels)]
    problems = [
        Problem(f"--channels {name}", "not given", f"{', '.join(needed)}, as in training", f"add {name}=FILE")
        for name in needed
        if name not in assigned
    ]
    problems += [
        Problem(f"--channels {name}", "no channel of the model", ", ".join(needed), "leave it out or correct the name")
        for name in assigned
        if name not in needed
    ]
    problems += [
        Problem(str(path), "no such file or folder", "a volume", "correct the path")
        for path in assigned.values()
        if not path.exists()
    ]
    if problems:
        raise InputError(problems)
    first = assigned[needed[0]]
    stem = volume_stem(first.name) or first.name
    name = named(stem, endings_of(None)).scan or first.absolute().parent.name
    return Item(name, Scan(name, first.parent, {name: Source((assigned[name],)) for name in needed}))


def _of_folder(folder: Path, channels: Sequence[str] | None, n_channels: int) -> Inputs:
    try:
        entries = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    except OSError as error:
        raise cannot_open(folder, error) from error
    files = [path for path in entries if path.name.lower().endswith((*EXTENSIONS, *VOLUME_EXTENSIONS))]
    # Pictures beside volumes are what somebody made of them.
    stating = [path for path in files if not path.name.lower().endswith(PLAIN_FILES)]
    if files and is_slice((stating or files)[0]):
        listing = list_folder(folder)
        if listing.problems:
            raise InputError(listing.problems)
        others = [
            *listing.foreign,
            *listing.subfolders,
            *(path.name for path in listing.masks.values() if listing.beside),
        ]
        return Inputs([Item(name, slice_file=path) for name, path in listing.slices.items()], _others(folder, others))
    if holds_dicom(folder):
        return Inputs([Item(scan.name, scan) for scan in _scans([folder], channels, n_channels)], [])
    if channels is None:
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
        volumes = [path for path in files if volume_stem(path.name)]
        if not volumes:
            there = f": {files[0].name}, ..." if files else ""
            raise input_error(folder, f"nothing to judge in {len(files)} files{there}", EXPECTED, OTHER_INPUT)
        others = [path.name for path in files if not volume_stem(path.name)]
        return Inputs(
            [Item(scan.name, scan) for scan in _scans(volumes, channels, n_channels)], _others(folder, others)
        )
    with _remedies_of_inputs(channels):
        found = find_scans(folder, channels, labelled=False)
    used = {path for scan in found.scans for path in scan.paths}
    others = [path.name for path in found.files if path not in used and path.parent not in used]
    return Inputs([Item(scan.name, scan) for scan in found.scans], _others(folder, others))


@contextmanager
def _remedies_of_inputs(channels: Sequence[str]) -> Iterator[None]:
    """What a preparation would mend by its flags --data_dir and --channels is mended here by naming other inputs."""
    files = f"name the files of one patient, --channels {' '.join(f'{name}=FILE' for name in channels)}"
    try:
        yield
    except InputError as error:
        problems = []
        for problem in error.problems:
            if "--data_dir" in problem.remedy:
                problem = replace(problem, expected=EXPECTED, remedy=OTHER_INPUT)
            elif "--channels" in problem.remedy:
                problem = replace(problem, remedy=f"{files}, or give them names that end in their contrast")
            problems.append(problem)
        raise InputError(problems) from error


def _others(folder: Path, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return [f"{folder}: {len(names)} other files or folders are not judged: {shown}"]


def _scans(files: Sequence[Path], channels: Sequence[str] | None, n_channels: int) -> list[Scan]:
    """Scans of volumes: files that hold all channels, and others by the contrasts in their names."""
    names = tuple(channels or (f"channel_{number}" for number in range(n_channels)))
    single = [path for path in files if channels is None and n_channels > 1 and _holds(path, 1)]
    if single:
        found = f"{len(single)} volume(s) of one channel, from {single[0].name} on"
        expected = f"files of {n_channels} channels: the model does not know what its channels show"
        remedy = f"name the files: --channels {' '.join(f'{name}=FILE' for name in names)}, as in training"
        raise input_error(single[0].parent, found, expected, remedy)
    whole = [path for path in files if channels is None or n_channels == 1 or _holds(path, n_channels)]
    scans = []
    for path in whole:
        stem = volume_stem(path.name) or path.name
        if n_channels == 1:
            parts = {names[0]: Source((path,))}
        else:
            parts = {name: Source((path,), number, n_channels) for number, name in enumerate(names)}
        scans.append(Scan(stem, path.parent, parts))
    rest = [path for path in files if path not in whole]
    with _remedies_of_inputs(names):
        return scans + (scans_of_files(rest, names) if rest else [])


def _holds(path: Path, n_channels: int) -> bool:
    return read_header(path).channels == n_channels


def in_groups(items: Sequence[Item]) -> list[list[Item]]:
    """As they are judged: scans alone, single slices several at a time."""
    scans = [[item] for item in items if item.scan]
    slices = [item for item in items if not item.scan]
    return scans + [slices[start : start + TOGETHER] for start in range(0, len(slices), TOGETHER)]
