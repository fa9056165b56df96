"""What a user points at -> scans and single slices: files, folders of patients, folders of slices, DICOM series."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.decoding import EXTENSIONS, IMAGE_EXTENSIONS, NIFTI_EXTENSIONS, load_nifti_header
from uad.data.reading.formats import slice_stem
from uad.data.reading.layouts import Scan, Source, find_scans, scans_of_files
from uad.data.reading.listing import list_folder
from uad.data.reading.naming import endings_of, named
from uad.data.reading.volumes import VOLUME_EXTENSIONS, holds_dicom, volume_stem
from uad.errors import InputError, Problem, input_error

EXPECTED = "a volume, a slice, a folder of patients or of slices, or the folder of a DICOM series"
PLAIN_FILES = (*IMAGE_EXTENSIONS, ".npy")


class Item(NamedTuple):
    """One thing to judge: a scan, or the file of a single slice."""

    name: str
    scan: Scan | None = None
    slice_file: Path | None = None

    @property
    def where(self) -> str:
        """What the user may look for."""
        return str(self.slice_file or self.scan.where)


def find_items(
    inputs: Sequence[Path], assigned: Mapping[str, Path], channels: Sequence[str] | None, n_channels: int
) -> list[Item]:
    """Everything to judge, sorted by name.

    assigned: channel -> file, of one scan; channels: the names of the model's channels, None where it knows none: then
    a scan is one file that holds them all. Raises InputError with all that is missing, and for two of one name.
    """
    items, problems, files = [], [], []
    if assigned:
        items.append(_assigned_scan(assigned, channels, n_channels))
    for path in inputs:
        try:
            if not path.exists():
                raise input_error(path, "no such file or folder", EXPECTED, f"correct the path, seen from {Path.cwd()}")
            if path.is_dir():
                items += _of_folder(path, channels, n_channels)
            elif is_slice(path, n_channels):
                items.append(Item(slice_stem(path), slice_file=path))
            else:
                files.append(path)
        except InputError as error:
            problems += error.problems
    try:
        items += [Item(scan.name, scan) for scan in _scans(files, channels, n_channels)] if files else []
    except InputError as error:
        problems += error.problems
    names = [item.name for item in items]
    for name in sorted({name for name in names if names.count(name) > 1}):
        where = ", ".join(item.where for item in items if item.name == name)
        problems.append(Problem(where, f"{names.count(name)} inputs called {name}", "different names", "rename one"))
    if not items and not problems:
        problems.append(Problem("INPUT", "nothing to judge", EXPECTED, "name a file or a folder"))
    if problems:
        raise InputError(problems)
    return sorted(items)


def is_slice(path: Path, n_channels: int) -> bool:
    """Whether a file holds a single slice for a model of `n_channels`, by its header; InputError for unknown types."""
    name = path.name.lower()
    if name.endswith(PLAIN_FILES):
        return True
    if not name.endswith(VOLUME_EXTENSIONS):
        expected = f"a file ending in {', '.join((*EXTENSIONS, *VOLUME_EXTENSIONS[len(NIFTI_EXTENSIONS) :]))}"
        raise input_error(path, f"a file of unknown type ({path.suffix or 'no extension'})", expected, "convert it")
    if not name.endswith(NIFTI_EXTENSIONS):
        return False
    try:
        shape = load_nifti_header(path).get_data_shape()
    except Exception as error:  # damaged bytes surface as a dozen unrelated exceptions
        found = f"unreadable ({type(error).__name__}: {error})"
        raise input_error(path, found, "a complete NIfTI file", "copy or create it again") from error
    if len(shape) == 2 or (len(shape) in (3, 4) and shape[2] == 1):
        return True
    counts = (n_channels, n_channels + 1)
    return len(shape) == 3 and (shape[2] in counts or shape[0] in counts) and max(shape) > max(counts)


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


def _of_folder(folder: Path, channels: Sequence[str] | None, n_channels: int) -> list[Item]:
    entries = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]
    files = [path for path in entries if path.name.lower().endswith((*EXTENSIONS, *VOLUME_EXTENSIONS))]
    if files and all(is_slice(path, n_channels) for path in files[:1]):
        listing = list_folder(folder)
        if listing.problems:
            raise InputError(listing.problems)
        return [Item(name, slice_file=path) for name, path in listing.slices.items()]
    if holds_dicom(folder):
        return [Item(scan.name, scan) for scan in _scans([folder], channels, n_channels)]
    if channels is None:
        volumes = [path for path in sorted(folder.rglob("*")) if path.name[0] != "." and volume_stem(path.name)]
        return [Item(scan.name, scan) for scan in _scans(volumes, channels, n_channels)]
    return [Item(scan.name, scan) for scan in find_scans(folder, channels, labelled=False).scans]


def _scans(files: Sequence[Path], channels: Sequence[str] | None, n_channels: int) -> list[Scan]:
    """Scans of volumes: by the contrasts in their names, or each a scan where the model has one channel or no names."""
    if channels is not None and n_channels > 1:
        return scans_of_files(files, channels)
    names = channels or [f"channel_{number}" for number in range(n_channels)]
    scans = []
    for path in files:
        stem = volume_stem(path.name) or path.name
        parts = {channel: Source((path,), number if n_channels > 1 else None) for number, channel in enumerate(names)}
        scans.append(Scan(stem, path.parent, parts))
    return scans
