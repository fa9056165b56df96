"""One scan in memory: its volumes in one orientation and on one grid, checked, with what was done to them."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.data.reading.decoding import decode
from uad.data.reading.geometry import (
    OBLIQUE,
    Grid,
    by,
    canonical_grid,
    reach,
    resample,
    same_grid,
    to_canonical,
    touched,
)
from uad.data.reading.labels import binary_label, lesion_values
from uad.data.reading.layouts import Scan, Source
from uad.data.reading.naming import LABEL
from uad.data.reading.planes import brains_of
from uad.data.reading.volumes import Header, Volume, read_header, read_volume
from uad.errors import InputError, Problem, ValueProblem, input_error

# Images without geometry in a stack: columns run to the patient's left, rows to the back, one millimetre a pixel.
STACK_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
STACK_NOTICE = "the slices state no voxel size: taken for 1 mm"
# A slice of which a volume misses more than this share of the patient is not covered.
MOST_MISSED = 0.02


class VolumeNote(NamedTuple):
    """What a volume was in its file. shows: a channel or the label; resampled: onto the grid of the first channel;
    lesion_values: of the label, those that count as lesion.
    """

    shows: str
    path: str
    grid: Grid
    resampled: bool
    notices: tuple[str, ...]
    lesion_values: tuple[float, ...] = ()


class LoadedScan(NamedTuple):
    """A scan in the orientation of uad.data.reading.geometry.

    images: (C, X, Y, Z) float32, raw intensities; label: (X, Y, Z) uint8, 1 = lesion, or None; lesions: (X, Y, Z) bool,
    voxels in which any of the lesion lies, also between the centres at which a finer label was sampled, or None; reach:
    (X, Y, Z) bool, where every channel and the label have values of their own, None where all are on one grid; affine:
    (4, 4) of this orientation; notes: of every volume, the first is the one whose grid all are on.
    """

    images: np.ndarray
    label: np.ndarray | None
    lesions: np.ndarray | None
    reach: np.ndarray | None
    affine: np.ndarray
    notes: tuple[VolumeNote, ...]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres of a voxel along X, Y and Z."""
        return Grid(self.images.shape[1:], self.affine).spacing

    def covered(self) -> np.ndarray:
        """(Z,) bool: slices that every volume covers, up to MOST_MISSED of the patient in the first channel."""
        if self.reach is None:
            return np.ones(self.images.shape[3], dtype=bool)
        body = brains_of(self.images[:1])
        return (body & ~self.reach).sum((0, 1)) <= MOST_MISSED * body.sum((0, 1))


def header_problems(scan: Scan, resampling: bool) -> list[Problem]:
    """What the headers tell: unreadable files, files of another number of channels, volumes on different grids."""
    problems, headers = [], {}
    for shows, source in scan.files.items():
        try:
            headers[shows] = _header(source)
            _check_component(source, headers[shows].channels)
        except InputError as error:
            problems += error.problems
    if not problems and not resampling:
        problems += _grid_problems(scan, {shows: header.grid for shows, header in headers.items()})
    return problems


def scan_grid(scan: Scan) -> Grid:
    """The grid of a scan's first channel, turned; InputError where its header cannot be read."""
    return canonical_grid(_header(next(iter(scan.files.values()))).grid)


def _header(source: Source) -> Header:
    return _header_of(source, tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in source.paths))


# A scan's headers are asked for several times before anything is read, and those of other formats come with the volume.
@lru_cache(maxsize=4096)
def _header_of(source: Source, changed: tuple[int, ...]) -> Header:
    """The header of a source whose files were changed last at `changed`."""
    if len(source.paths) > 1:
        shape = decode(source.paths[0]).values.shape
        grid = Grid((shape[1], shape[0], len(source.paths)), STACK_AFFINE)
        return Header(grid, (*shape, 1)[2], (STACK_NOTICE,))
    return read_header(source.paths[0])


def _check_component(source: Source, channels: int) -> None:
    path = source.paths[0]
    if source.component is None and channels > 1:
        found = f"a file of {channels} channels"
        raise input_error(path, found, "one channel", "name what its channels show, in order, by --channels")
    if source.component is None:
        return
    found = f"{channels} channel{'s' if channels > 1 else ''}"
    if source.component >= channels:
        raise input_error(path, found, f"at least {source.component + 1}", "correct --channels, or remove the file")
    if source.channels is not None and source.channels != channels:
        remedy = "store these alone in one file, or each in its own, or remove the file"
        raise input_error(path, found, f"{source.channels}, those that are asked for in their order", remedy)


def _grid_problems(scan: Scan, grids: dict[str, Grid]) -> list[Problem]:
    """Volumes whose voxels are not those of the first, once all are in one orientation."""
    (first, reference), *others = grids.items()
    problems = []
    for shows, grid in others:
        if not same_grid(canonical_grid(reference), canonical_grid(grid)):
            where = str(scan.files[shows].paths[0])
            expected = f"the grid of {first}: {reference}"
            remedy = "register them, or pass --resample where they differ by their grids alone, not by how the head lay"
            problems.append(Problem(where, str(grid), expected, remedy))
    return problems


def load_scan(scan: Scan, resampling: bool = False) -> LoadedScan:
    """Read a scan's channels, in the order of its files, and its label.

    resampling: bring volumes on other grids onto that of the first channel, images linearly, the label to the nearest
    voxel (see also LoadedScan.lesions and reach). Raises InputError with all that is wrong: damaged files, NaN,
    constant images, a label that is none, different grids.
    """
    problems, volumes, read, counted = [], {}, {}, {}
    for shows, source in scan.files.items():
        try:
            volume = _read(source, read)
            volumes[shows] = volume._replace(values=_checked(source.paths[0], volume.values, shows == LABEL))
            counted[shows] = lesion_values(volume.values) if shows == LABEL else ()
        except InputError as error:
            problems += error.problems
    if not problems and not resampling:
        problems += _grid_problems(scan, {shows: volume.grid for shows, volume in volumes.items()})
    if problems:
        raise InputError(problems)
    grid, placed, notes, lesions, reached = None, {}, [], None, None
    for shows, volume in volumes.items():
        values, affine = to_canonical(volume.values, volume.affine)
        own = Grid(values.shape, affine)
        grid = grid or own
        moved = not same_grid(grid, own)
        placed[shows] = resample(values, affine, grid, nearest=shows == LABEL) if moved else values
        if moved:
            reached = reach(own, grid) if reached is None else reached & reach(own, grid)
        if shows == LABEL:
            lesions = touched(values, affine, grid) if moved else values > 0
        path = str(scan.files[shows].paths[0])
        notes.append(VolumeNote(shows, path, volume.grid, moved, _notices(volume), counted[shows]))
    label = placed.pop(LABEL, None)
    return LoadedScan(np.stack(list(placed.values())), label, lesions, reached, grid.affine, tuple(notes))


def _read(source: Source, read: dict[tuple, Volume]) -> Volume:
    """One channel, (X, Y, Z); read: what was read before, for files that hold several channels."""
    if source.paths not in read:
        read[source.paths] = _stack(source.paths) if len(source.paths) > 1 else read_volume(source.paths[0])
    volume = read[source.paths]
    channels = (*volume.values.shape, 1)[3]
    _check_component(source, channels)
    if source.component is None or channels == 1:
        return volume
    return volume._replace(values=volume.values[..., source.component])


def _stack(paths: Sequence) -> Volume:
    """Slices as a volume (X, Y, Z[, C]); InputError where their sizes differ."""
    slices = [decode(path).values for path in paths]
    for path, values in zip(paths, slices, strict=True):
        if values.shape != slices[0].shape:
            raise input_error(path, f"a slice of {by(values.shape)}", f"{by(slices[0].shape)} as before", "remove it")
    return Volume(np.stack([values.swapaxes(0, 1) for values in slices], axis=2), STACK_AFFINE, (STACK_NOTICE,))


def _notices(volume: Volume) -> tuple[str, ...]:
    angle = volume.grid.obliquity
    oblique = (f"oblique by {angle:.1f} degrees: read along its own axes",) if angle >= OBLIQUE else ()
    return (*volume.notices, *oblique)


def _checked(path: Path, values: np.ndarray, is_label: bool) -> np.ndarray:
    """Intensities (X, Y, Z) as float32, a segmentation as uint8; InputError for values that are neither."""
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 becomes infinite
        image = values.astype(np.float32)
    faulty = image.size - int(np.isfinite(image).sum())
    if faulty:
        remedy = "write 0 there if it is the background; else fetch the file again, or remove the scan"
        raise input_error(path, f"{faulty} voxels are NaN, infinite or beyond float32", "finite values", remedy)
    if is_label:
        try:
            return binary_label(values)
        except ValueProblem as error:
            raise error.at(path) from error
    if image.min() == image.max():
        remedy = "fetch the file again, or remove the scan"
        raise input_error(path, "the same value in every voxel", "an image", remedy)
    return image
