"""Scans and slices as the images of a model, and maps back on the grid of the file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from uad.application.inputs import Item
from uad.data.reading.decoding import NIFTI_EXTENSIONS, PLANE_AFFINE, full_scale_of
from uad.data.reading.facts import Levels, TrainingFacts, as_seen
from uad.data.reading.folder import resized_affine
from uad.data.reading.formats import RawSlice, read_slice
from uad.data.reading.geometry import CANONICAL, from_canonical
from uad.data.reading.likeness import MANY
from uad.data.reading.naming import LABEL
from uad.data.reading.normalise import is_lifted
from uad.data.reading.planes import PLANE, Framing, brains_of, plane_of
from uad.data.reading.scans import load_scan
from uad.data.reading.settings import Reading
from uad.data.reading.turning import OF_VOLUMES, PICTURE, Turn, lies
from uad.data.reading.volumes import nifti_shape
from uad.errors import InputError, ValueProblem, input_error, with_remedy

MIN_BRAIN = 0.02
# Sides that differ by more than this factor are noticed where slices of volumes were padded.
STRETCHED = 1.1


@dataclass(frozen=True)
class Chain:
    """From files to a model's images, as its training images were made.

    channels: None where they have no names; levels: which slices were trained on, None to judge all; min_brain,
    least_foreground: a slice that shows less of the patient is not judged, by the share of the volume's plane and of
    the model's image; lie: to where H and W of its images run, see uad.data.reading.turning, None of models of
    earlier versions: slices are judged as they lie then, and volumes as pictures; assumed: nothing says how large a
    pixel of the training's slices was.
    """

    reading: Reading
    channels: tuple[str, ...] | None
    framing: Framing
    levels: Levels | None
    min_brain: float
    least_foreground: float
    lie: str | None
    assumed: bool

    @property
    def names(self) -> tuple[str, ...]:
        """What the channels are called."""
        return self.channels or tuple(f"channel_{number}" for number in range(self.reading.n_channels))


def chain_of(reading: Reading, facts: TrainingFacts, spacing: float | None, all_slices: bool) -> Chain:
    """What a checkpoint stores; spacing: of a pixel of the plane, goes before it, 0 keeps each volume's own;
    all_slices: also judge those that are unlike the training's by their place or by how little they show.
    """
    size = reading.img_size if PLANE % reading.img_size == 0 else PLANE
    framing = facts.framing or Framing(1.0, size)
    if spacing is not None:
        framing = Framing(spacing or None, framing.img_size)
    # Where backgrounds were not removed, an image that seems to have none says nothing of the others.
    stripped = facts.likeness is not None and facts.likeness.stripped >= MANY
    least = facts.likeness.least if stripped and not all_slices else 0.0
    levels = None if all_slices else facts.levels
    min_brain = MIN_BRAIN if facts.min_brain is None else facts.min_brain
    lie = facts.lie or (OF_VOLUMES if facts.framing else None)
    assumed = facts.framing is None and spacing is None
    return Chain(reading, facts.channels, framing, levels, min_brain, least, lie, assumed)


@dataclass(frozen=True)
class Opened:
    """One input in memory.

    images: (N, C, S, S) float32 in [0, 1], of the slices that show the patient; foregrounds: (N, S, S) bool; levels:
    their places on the third axis; shape: (X, Y, Z), the volume with its axes turned (of a slice Z = 1); affine: that
    of the file, on whose grid results are written; distance: millimetres between slices; plane_affine: of the squares;
    voxel_ml: what a voxel holds, None of a single slice. back: (..., S, S) to (..., X, Y); to_file:
    (X, Y, Z, ...) to the axes of the file; notices: what was done to it.
    """

    name: str
    images: np.ndarray
    foregrounds: np.ndarray
    levels: tuple[int, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    distance: float
    plane_affine: np.ndarray
    voxel_ml: float | None
    back: Callable[[np.ndarray], np.ndarray]
    to_file: Callable[[np.ndarray], np.ndarray]
    notices: tuple[str, ...]

    def volume(self, squares: np.ndarray) -> np.ndarray:
        """(N, ..., S, S) of the slices to (X, Y, Z, ...): zeros where no slice was judged."""
        volume = np.zeros((*self.shape, *squares.shape[1:-2]), dtype=np.float32)
        for level, square in zip(self.levels, squares, strict=True):
            volume[:, :, level] = np.moveaxis(self.back(square), (-2, -1), (0, 1))
        return volume


def slice_name(item: Item, level: int) -> str:
    """The name of a slice, which is that of its file where a preparation wrote it: its randomness is keyed by it."""
    return item.name if item.scan is None else f"{item.name}_{level:03d}"


def open_item(item: Item, chain: Chain, resampling: bool = False) -> Opened:
    """Read one input; InputError where it cannot be used."""
    if item.scan is not None:
        return _open_scan(item, chain, resampling)
    return _opened_slice(item.name, _read_slice(item.slice_file, chain), chain, item.where)


def _open_scan(item: Item, chain: Chain, resampling: bool) -> Opened:
    turn = Turn(OF_VOLUMES, chain.lie or PICTURE)
    if not turn.possible:
        found, expected = f"axial slices, which run to {OF_VOLUMES}", f"slices as in training, which run to {turn.end}"
        raise input_error(item.where, found, expected, "use a model of axial slices, or judge slices as files")
    loaded = load_scan(item.scan, resampling)
    brains, covered = brains_of(loaded.images), loaded.covered()
    try:
        plane = plane_of(brains, loaded.spacing[:2], chain.framing)
    except ValueProblem as error:
        raise error.at(item.where) from error
    # The network may take smaller images than the preparation made.
    prepared = (chain.framing.img_size,) * 2
    first, stop, notice = _trained_levels(chain, loaded.images.shape[3])
    notes = [note for note in loaded.notes if note.shows != LABEL]
    moved = [note.shows for note in notes if note.resampled]
    images, foregrounds, levels = [], [], []
    for level in range(first, stop):
        raw = loaded.images[..., level]
        shown = raw.max() > raw.min() and brains[..., level].sum() >= max(1, chain.min_brain * raw[0].size)
        if covered[level] and shown:
            image, foreground = _seen(turn.there(plane.squares(raw)), chain.reading, f"{item.where}, slice {level}")
            if foreground.mean() >= chain.least_foreground:
                images.append(image)
                foregrounds.append(foreground)
                levels.append(level)
    if not levels:
        expected = (
            f"slices with the patient in at least {max(chain.min_brain, chain.least_foreground):.0%} of the image"
        )
        remedy = "look at the volume; --all_slices judges slices that show less than those of the training"
        beyond = f"; {(~covered).sum()} slices lie beyond another channel" if not covered.all() else ""
        raise input_error(item.where, f"no slice that shows enough of the patient{beyond}", expected, remedy)
    grid = loaded.notes[0].grid
    notices = [f"turned from {grid.orientation} to {CANONICAL} for the model"] if grid.orientation != CANONICAL else []
    if moved:
        notices.append(f"{', '.join(moved)} resampled onto the grid of {notes[0].shows}; slices beyond are not judged")
    if chain.assumed:
        notices.append(f"the training does not say how large its images are: {PLANE} mm a side are taken, or --spacing")
    notices += _lifted(loaded.images[..., levels], chain.reading)
    notices += [*plane.notices(loaded.spacing), *notice, *(said for note in loaded.notes for said in note.notices)]
    return Opened(
        item.name,
        np.stack(images),
        np.stack(foregrounds),
        tuple(levels),
        loaded.images.shape[1:],
        grid.affine,
        float(loaded.spacing[2]),
        resized_affine(turn.affine(plane.affine(loaded.affine, 0), prepared), prepared, images[0].shape[1:]),
        float(np.prod(grid.spacing)) / 1000,
        lambda squares: plane.back(turn.back(_resized(squares, prepared))),
        lambda volume: from_canonical(volume, grid.affine),
        tuple(dict.fromkeys(notices)),
    )


def _trained_levels(chain: Chain, count: int) -> tuple[int, int, list[str]]:
    """First and past-the-last slice to judge of `count`, and what to know of it."""
    levels = chain.levels
    if levels is None or not levels.low + levels.high:
        return 0, count, []
    if levels.slices == count:
        kept = f"slices {levels.low} to {count - levels.high - 1} from the feet up were judged, those of the training's"
        return levels.low, count - levels.high, [kept]
    left_out = f"the lowest {levels.low} and the highest {levels.high} of {levels.slices or 'its'} slices"
    return 0, count, [f"the training left out {left_out}: maps of such slices mean little"]


def open_array(array: np.ndarray, name: str, chain: Chain) -> Opened:
    """An image in memory, (C, H, W) of any intensities, as the same values in a picture would be opened.

    InputError for another number of channels or axes and for values that cannot be used.
    """
    where, channels = f"image {name}", chain.reading.n_channels
    found, expected = f"an array of shape {array.shape} and type {array.dtype}", f"real numbers ({channels}, H, W)"
    if array.dtype.kind not in "uifb":
        remedy = "take the magnitude, as np.abs does" if array.dtype.kind == "c" else "make numbers of its values"
        raise input_error(where, found, expected, remedy)
    if array.ndim != 3 or len(array) != channels:
        remedy = f"pass all {channels} channel(s) of the training, or use a model of such images"
        if array.ndim == 3 and array.shape[2] == channels:
            remedy = "bring the channels to the first axis, as np.moveaxis(image, -1, 0) does"
        raise input_error(where, found, expected, remedy)
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite
        image = array.astype(np.float32)
    faulty = image.size - int(np.isfinite(image).sum())
    if faulty:
        found = f"{faulty} values are NaN, infinite or beyond float32"
        raise input_error(
            where, found, "finite intensities", "write 0 where there is no signal, or leave the image out"
        )
    return _opened_slice(name, RawSlice(image, None, PLANE_AFFINE, full_scale_of(array)), chain, where)


def _read_slice(path: Path, chain: Chain) -> RawSlice:
    """As read_slice, whose remedy for another number of channels is a flag of training: here the model says it."""
    n_channels = chain.reading.n_channels
    remedy = f"use a model of such images, or store the {n_channels} channel(s) of this one in one file"
    try:
        return read_slice(path, n_channels)
    except InputError as error:
        if _is_volume_of_one_slice(path):
            remedy += f"; files of one channel each: --channels {' '.join(f'{name}=FILE' for name in chain.names)}"
        raise with_remedy(error, "--n_channels", remedy) from error


def _is_volume_of_one_slice(path: Path) -> bool:
    """Whether a file counts as a single slice but is one channel of a volume where channels are named: (X, Y, 1)."""
    if not path.name.lower().endswith(NIFTI_EXTENSIONS):
        return False
    try:
        return set(nifti_shape(path)[2:]) == {1}
    except InputError:
        return False


def _opened_slice(name: str, raw: RawSlice, chain: Chain, where: str) -> Opened:
    if raw.image.min() == raw.image.max():
        raise input_error(where, "the same value in every pixel", "an image", "leave it out")
    turn, notices = _turn_of_slice(lies(raw.affine), chain.lie)
    empty = [channel for channel, one in zip(chain.names, raw.image, strict=True) if one.min() == one.max()]
    if empty:
        notices = (*notices, f"the same value in every pixel of {', '.join(empty)}: judged by the other channels")
    notices = (*notices, *_lifted(raw.image[..., None], chain.reading))
    turned = turn.there(raw.image)
    height, width = turned.shape[1:]
    if not chain.assumed and max(height, width) > STRETCHED * min(height, width):
        padding = "those of the training were padded to one instead, so pad it"
        notices = (*notices, f"{height} x {width} pixels were stretched to a square: {padding}")
    image, foreground = _seen(turned, chain.reading, where, raw.full_scale)
    return Opened(
        name,
        image[None],
        foreground[None],
        (0,),
        (*raw.image.shape[1:], 1),
        raw.affine,
        0.0,
        turn.affine(raw.affine, (height, width)),
        None,
        lambda squares: turn.back(_resized(squares, (height, width))),
        lambda volume: volume,
        notices,
    )


def _lifted(raw: np.ndarray, reading: Reading) -> list[str]:
    """What to know where most of the slices (C, H, W, N) have a channel without dark pixels."""
    lifted = [is_lifted(raw[..., level], reading.normalise) for level in range(raw.shape[-1])]
    if 2 * sum(lifted) <= len(lifted):
        return []
    return ["a channel has no dark pixels: 0 is taken as no signal, so subtract a constant that was added"]


def _resized(squares: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(..., S, S) to (..., H, W): linear between the pixels' centres."""
    if squares.shape[-2:] == shape:
        return squares
    flat = torch.from_numpy(squares.reshape(1, -1, *squares.shape[-2:]).astype(np.float32))
    resized = F.interpolate(flat, shape, mode="bilinear", align_corners=False)
    return resized.numpy().reshape(*squares.shape[:-2], *shape)


def _turn_of_slice(lie: str, wanted: str | None) -> tuple[Turn, tuple[str, ...]]:
    """How a slice is turned to lie as the model's do, and what to know of it; one of another plane stays as it is."""
    as_it_lies = Turn(PICTURE, PICTURE)
    if lie == (wanted or PICTURE):
        return as_it_lies, ()
    if wanted is None:
        return as_it_lies, (f"H and W run to {lie}; the model does not say to where in training: judged as it lies",)
    turn = Turn(lie, wanted)
    if not turn.possible:
        return as_it_lies, (f"H and W run to {lie}, in training to {wanted}: judged as it lies",)
    return turn, (f"turned from {lie} to {wanted} for the model",)


def _seen(raw: np.ndarray, reading: Reading, where: str, full_scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    try:
        return as_seen(raw, reading, full_scale)
    except ValueProblem as error:
        # A normalisation is chosen in training: here the model says it.
        elsewhere = "bring the intensities into the range of the training's, or use a model that was trained on such"
        remedy = elsewhere if "--normalise" in error.remedy else error.remedy
        raise ValueProblem(error.found, error.expected, remedy).at(where) from error
