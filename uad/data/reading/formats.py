"""Single slices: NIfTI, PNG, JPEG, TIFF and NPY files are read as (C, H, W) arrays, NIfTI is written.

The spatial axes keep the order of the file: NIfTI and NPY axis 0 -> H, axis 1 -> W; image row -> H, column
-> W.
"""

from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from uad.data.reading.decoding import EXTENSIONS, NIFTI_EXTENSIONS, decode, extension_of
from uad.data.reading.encoding import nifti_bytes, write_nifti
from uad.data.reading.labels import binary_label
from uad.data.reading.turning import Turn, lies
from uad.errors import ValueProblem, input_error

__all__ = ["EXTENSIONS", "RawSlice", "read_mask", "read_slice", "slice_bytes", "slice_stem", "write_slice"]

# An axis of at most this many entries is taken for channels when an error explains what was found.
MAX_CHANNELS = 16
# Red, green and blue of a grey JPEG may differ by rounding, and around a coloured mark by ringing, which spreads over
# blocks of 16 x 16 pixels; where they differ by more than this of 255 is colour.
GREY_TOLERANCE = 16
# Annotations that a scanner burns in (an arrow, a number) take less of an image than this; a colour image more.
MAX_MARK_SHARE = 0.01
# Weights of red, green and blue in grey (ITU-R BT.601), in 1/65536: equal channels give their own value.
_LUMA = (19595, 38470, 7471)


class RawSlice(NamedTuple):
    """One slice as stored.

    image: (C, H, W) float32, raw intensities; label: (H, W) uint8, 0 or 1, or None; affine: (4, 4) float64,
    indices (h, w, 0) to millimetres in RAS+; full_scale: the intensity that stands for 1 where a file is
    declared to be normalised already, 255 and 65535 for unsigned 8- and 16-bit integers, 1 for all others; marked:
    whether it is the grey of a colour file with a small mark, or rounding, in colour.
    """

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    full_scale: float = 1.0
    marked: bool = False


def slice_stem(path: Path | str) -> str:
    """The file name without its slice extension (".nii.gz" counts as one extension)."""
    path = path if isinstance(path, Path) else Path(path)
    return path.name[: len(path.name) - len(extension_of(path) or "")]


def read_slice(path: Path | str, n_channels: int) -> RawSlice:
    """Read one slice with `n_channels` image channels.

    NIfTI and NPY arrays may be (H, W), (H, W, C), (H, W, 1, C) or (C, H, W), with further axes of length 1 where
    that leaves no doubt; with one channel more than `n_channels` the last one is the label. Where the first and the
    last of three axes could both be the channels (4 x 4 x 4), the last one is taken, which is how this project
    writes. The affine of a file with axes in front of H cannot describe them as they are, so it is taken to describe
    (H, W).

    Image files: grey is one channel, RGB three, RGBA four; RGB is one grey channel where `n_channels` is 1 if its
    channels are equal but for less than MAX_MARK_SHARE of the pixels, and an opaque alpha channel is dropped unless
    it is asked for. The decoder reduces RGB of 16 bits a channel to 8 bits; 16-bit grey is kept.

    Values may be non-finite: that is for the caller to judge. Raises InputError for a file that is missing,
    damaged, too large, a volume, or has another number of channels.
    """
    decoded = decode(path)
    values, marked = decoded.values, False
    if decoded.colour and n_channels == 1:
        values, marked = _grey(values, path)
    channels = (_colour_channels if decoded.colour else _array_channels)(values, n_channels, path)
    label = None
    if len(channels) > n_channels:
        label = _label(
            channels[n_channels],
            path,
            f"the last of {n_channels + 1} channels, taken for the label because n_channels is {n_channels},",
            f"; if all {n_channels + 1} channels are image channels, pass --n_channels {n_channels + 1}",
        )
    image = _as_float32(channels[:n_channels])
    return RawSlice(image, label, decoded.affine, decoded.full_scale, marked)


def read_mask(path: Path | str, image: Path | None = None, affine: np.ndarray | None = None) -> np.ndarray:
    """Read a lesion mask as (H, W) uint8, 1 = lesion; image, affine: of the slice that it belongs to, as which it is
    turned where the axes of two NIfTI files run to other directions. A picture has no such axes.

    The file holds 0 and one positive value (1, 255, a colour on black, ...), or whole-number regions, whose union is
    the lesion: see binary_label. Raises InputError for anything else, e.g. the grey fringes of a JPEG, and for a mask
    of another plane.
    """
    decoded = decode(path)
    if decoded.colour and decoded.values.ndim == 3:
        values = _without_alpha(decoded.values, path).max(axis=2)
    else:
        values = _array_channels(decoded.values, 1, path, label_allowed=False)[0]
    label = _label(values, path, "the mask")
    if image is None or any(extension_of(Path(each)) not in NIFTI_EXTENSIONS for each in (path, image)):
        return label
    turn = Turn(lies(decoded.affine), lies(affine))
    if turn.start == turn.end:
        return label
    if not turn.possible:
        expected = f"to {turn.end}, as those of {image}"
        raise input_error(path, f"H and W that run to {turn.start}", expected, "correct the affine of one of them")
    return turn.there(label)


def write_slice(path: Path | str, array: np.ndarray, affine: np.ndarray) -> None:
    """Write (H, W) or (C, H, W) as `.nii.gz`, stored as (H, W) or (H, W, 1, C), so that viewers open it as
    an image.

    uint8 and bool are stored as uint8, all else as float32. The file is written whole, and equal content
    gives equal bytes (no time stamp). Raises ValueError for another extension or number of axes.
    """
    if not str(path).endswith(".nii.gz"):
        raise ValueError(f"{path}: slices are written as .nii.gz")
    stored = np.ascontiguousarray(_as_stored(array))
    write_nifti(path, nib.Nifti1Image(stored, np.asarray(affine, dtype=np.float64)))


def slice_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """The bytes of a `.nii.gz` file with the contents that write_slice gives it, compressed faster and less; ValueError
    for another number of axes.
    """
    return nifti_bytes(_as_stored(array), affine)


def _as_stored(array: np.ndarray) -> np.ndarray:
    """(H, W) or (C, H, W) as (H, W) or (H, W, 1, C), of uint8 or float32; ValueError for other shapes."""
    array = np.asarray(array)
    if array.ndim not in (2, 3):
        raise ValueError(f"an array of shape {array.shape} is neither (H, W) nor (C, H, W)")
    array = array.astype(np.uint8 if array.dtype in (np.uint8, np.bool_) else np.float32, copy=False)
    return array if array.ndim == 2 else array.transpose(1, 2, 0)[:, :, None, :]


def _array_channels(values: np.ndarray, n_channels: int, path, label_allowed: bool = True) -> np.ndarray:
    """Bring an array of an accepted layout to (C, H, W), C = n_channels or, with the label, one more."""
    counts = (n_channels, n_channels + 1) if label_allowed else (n_channels,)
    shape = values.shape
    if values.ndim == 2 and n_channels == 1:
        return values[None]
    if values.ndim == 4 and shape[2] == 1 and shape[3] in counts:
        return values[:, :, 0].transpose(2, 0, 1)
    if values.ndim == 3 and shape[2] in counts:
        return values.transpose(2, 0, 1)
    if values.ndim == 3 and shape[0] in counts:
        return values
    squeezed = values.squeeze()
    # What stands before an axis of length 1 at the end may be the slices of a volume: (H, W, 4, 1).
    if squeezed.ndim < values.ndim and (squeezed.ndim == 2 or (squeezed.ndim == 3 and shape[-1] != 1)):
        return _array_channels(squeezed, n_channels, path, label_allowed)
    raise input_error(path, *_shape_problem(shape, counts))


def _shape_problem(shape: tuple[int, ...], counts: tuple[int, ...]) -> tuple[str, str, str]:
    """What was found, expected, and what to do, for an array that is no slice of so many channels."""
    wanted = " or ".join(str(count) for count in counts)
    expected = f"one slice with {wanted} channel(s): (H, W), (H, W, C), (H, W, 1, C) or (C, H, W)"
    cut = (
        "scripts/prepare_mri.py cuts volumes into slices, scripts/detect.py looks for lesions in whole volumes without "
        "cutting them"
    )
    if len(shape) == 2:
        return f"one channel, shape {shape}", expected, "pass --n_channels 1, or store all channels in one file"
    if len(shape) == 3 and min(shape[0], shape[2]) <= MAX_CHANNELS:
        found = shape[2] if shape[2] <= MAX_CHANNELS else shape[0]
        remedy = f"if these are channels pass --n_channels {found}; if they are the slices of a volume, {cut}"
        return f"{found} channels, shape {shape}", expected, remedy
    if len(shape) == 4 and shape[2] == 1:
        return f"{shape[3]} channels, shape {shape}", expected, f"pass --n_channels {shape[3]}"
    if len(shape) in (3, 4):
        return f"a {len(shape)}-D volume of shape {shape}", expected, cut
    return f"an array with {len(shape)} axes, shape {shape}", expected, "store one slice a file"


def _grey(values: np.ndarray, path) -> tuple[np.ndarray, bool]:
    """Colour values (H, W, 3 or 4) as grey (H, W), and whether a mark in colour was in them; others as they are.

    Raises InputError where more than a small mark is in colour.
    """
    if values.ndim == 3 and values.shape[2] == 4:
        values = _without_alpha(values, path)
    if values.ndim == 2 or values.shape[2] != 3:
        return values, False
    if (values == values[:, :, :1]).all():
        return values[:, :, 0], False
    spread = values.max(axis=2).astype(np.int64) - values.min(axis=2)
    share = (spread > GREY_TOLERANCE).mean()
    if share >= MAX_MARK_SHARE:
        raise input_error(
            path,
            f"a colour image (red, green and blue differ in {share:.1%} of the pixels)",
            "a grey image, for n_channels is 1",
            "convert it to grey, or pass --n_channels 3 if the three channels are modalities",
        )
    luma = (values.astype(np.int64) * _LUMA).sum(axis=2)
    return ((luma + 2**15) >> 16).astype(values.dtype), True


def _colour_channels(values: np.ndarray, n_channels: int, path) -> np.ndarray:
    """Bring (H, W) or (H, W, grey/RGB[A]) to (n_channels, H, W)."""
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] in (2, 4) and values.shape[2] != n_channels:
        values = _without_alpha(values, path)
    if values.shape[2] != n_channels:
        found = values.shape[2]
        raise input_error(
            path,
            f"{found} channel{'s' if found != 1 else ''}",
            f"{n_channels} channels",
            f"pass --n_channels {found}, or store the modalities as the channels of one NIfTI or NPY file",
        )
    return values.transpose(2, 0, 1)


def _without_alpha(values: np.ndarray, path) -> np.ndarray:
    if values.shape[2] not in (2, 4):
        return values
    alpha = values[:, :, -1]
    if (alpha != alpha.flat[0]).any():
        raise input_error(
            path,
            "an alpha channel that varies (partly transparent image)",
            "an opaque image",
            "save the image without transparency",
        )
    return values[:, :, :-1]


def _label(values: np.ndarray, path, what: str, otherwise: str = "") -> np.ndarray:
    """`binary_label` of what a file holds; otherwise: what else the remedy may be."""
    try:
        return binary_label(values)
    except ValueProblem as error:
        raise input_error(path, f"{what} has {error.found}", error.expected, f"{error.remedy}{otherwise}") from error


def _as_float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the checks report
        return np.ascontiguousarray(values, dtype=np.float32)
