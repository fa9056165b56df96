"""The bytes of a slice file as an array in the file's own layout; a damaged file ends as an InputError.

NIfTI through nibabel, PNG, JPEG and TIFF through Pillow, NPY through NumPy. Headers are read first, so that
a claim of a huge image is refused before memory is used.
"""

import errno
import gzip
import math
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from PIL import ExifTags, Image

from uad.errors import InputError, ValueProblem, input_error

NIFTI_EXTENSIONS = (".nii.gz", ".nii")
IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
EXTENSIONS = (*NIFTI_EXTENSIONS, *IMAGE_EXTENSIONS, ".npy")

# A slice has some 10^5 values; a header that claims more than this is damaged or belongs to something else.
MAX_VALUES = 2**26
# What may follow the data of a NIfTI file; more is not read, for a small gzip file can hold any amount.
_MAX_TRAILING = 2**20
# Images without geometry are shown as a radiologist sees them: columns run to the patient's left (-x in
# RAS+ coordinates), rows run downwards (-y), one millimetre a pixel.
PLANE_AFFINE = np.array([[0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)

_IMAGE_FORMATS = ("PNG", "JPEG", "TIFF")
_DIRECT_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F", "RGB", "RGBA"}
_CONVERTED_MODES = {"P": "RGBA", "PA": "RGBA", "YCbCr": "RGB", "CMYK": "RGB"}
# What brings an image upright, by the orientation that its EXIF data state.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_NIFTI_OFFSET = 2**24
# Holds the header of either version.
_NIFTI_HEAD = 1024
_MAX_ITEMSIZE = 16


class Decoded(NamedTuple):
    """File content in the file's own layout.

    values: real numbers, any shape; affine: (4, 4) float64, finite; full_scale: the intensity that stands
    for 1 in a normalised file (255 and 65535 for unsigned 8- and 16-bit integers, 1 for all others, which
    hold physical values); colour: an image file, (H, W) or (H, W, grey or RGB, maybe with alpha).
    """

    values: np.ndarray
    affine: np.ndarray
    full_scale: float
    colour: bool


def extension_of(path: Path | str) -> str | None:
    """The slice extension of a file name, in lower case, or None when it is not one of EXTENSIONS."""
    # Asked several times for every file of a folder: making a path of a path takes longer than all else here.
    name = (path if isinstance(path, Path) else Path(path)).name.lower()
    return next((extension for extension in EXTENSIONS if name.endswith(extension)), None)


def decode(path: Path | str) -> Decoded:
    """Decode a slice file, by its extension; InputError for a missing, damaged, huge or non-numeric file."""
    path = Path(path)
    extension = extension_of(path)
    if extension is None:
        raise input_error(
            path,
            f"a file of unknown type ({path.suffix or 'no extension'})",
            f"one of {', '.join(EXTENSIONS)}",
            "convert it to one of these formats",
        )
    try:
        decoded = _decode_as(extension, path)
    except ValueProblem as problem:
        raise problem.at(path) from problem
    except Exception as error:
        # Damaged bytes surface from nibabel, Pillow, zlib and NumPy as a dozen unrelated exception types
        # (EOFError, zlib.error, SyntaxError, struct.error, OverflowError, ...); here all of them mean that
        # the file is unusable.
        raise _unreadable(path, extension, error) from error
    return _checked_values(decoded, path)


def _decode_as(extension: str, path: Path) -> Decoded:
    if extension in NIFTI_EXTENSIONS:
        return _decode_nifti(path)
    return _decode_npy(path) if extension == ".npy" else _decode_image(path)


def cannot_open(path: Path | str, error: OSError) -> InputError:
    """What the system says where it does not open a file or list a folder, with what helps."""
    remedies = {
        errno.ENOENT: "correct the path; a symbolic link may lead to what is gone",
        errno.ELOOP: "the symbolic link leads to itself: remove it, or link to the file",
        errno.EISDIR: "it is a folder: move the file that it holds out of it, or remove it",
    }
    remedy = remedies.get(error.errno, "check the disk or the network drive that it lies on")
    if isinstance(error, PermissionError):
        remedy = (
            "give permission to read it, e.g. chmod u+r, and chmod u+rx for the folders above it; or run as its owner"
        )
    return input_error(path, f"cannot be opened: {error.strerror}", "a readable file or folder", remedy)


def words_of(error: Exception, path: Path) -> str:
    """What a library says of a file, without its path, which stands beside: what is wrong with many files alike is then
    said once.
    """
    said = str(error).replace(f" {str(path)!r}", "").replace(str(path), "it")
    return f"{type(error).__name__}: {said}"


def _unreadable(path: Path, extension: str, error: Exception) -> InputError:
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_open(path, error)
    return input_error(
        path,
        f"cannot be decoded ({words_of(error, path)})",
        f"a complete, valid {extension} file",
        "the file is damaged, truncated or of another type than its name says: copy or create it again, or remove it",
    )


def _checked_values(decoded: Decoded, path: Path) -> Decoded:
    values = decoded.values
    if values.dtype.kind not in "buif":
        raise input_error(
            path,
            f"values of type {values.dtype}",
            "real numbers (integers or floats)",
            "convert the intensities to float32",
        )
    if values.size == 0:
        raise input_error(path, f"an empty array of shape {values.shape}", "an image", "create the file again")
    if not np.isfinite(decoded.affine).all():
        raise input_error(
            path,
            "an affine with NaN or infinite entries",
            "a finite 4 x 4 affine",
            "write the file again with a valid affine (sform or qform)",
        )
    return decoded


def _refuse_large(shape, itemsize: int = 1, max_values: int = MAX_VALUES) -> None:
    """ValueError for more than `max_values` values, or values of more bytes than any number has."""
    count = math.prod(int(n) for n in shape)
    if count > max_values or any(n < 0 for n in shape) or itemsize > _MAX_ITEMSIZE:
        claim = f"the shape {tuple(shape)} of {itemsize}-byte values"
        raise ValueError(f"its header claims {claim}; at most {max_values} values are read")


def full_scale_of(values: np.ndarray) -> float:
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return float(np.iinfo(values.dtype).max)
    return 1.0


def _decode_nifti(path: Path) -> Decoded:
    nifti = load_nifti(path)
    values = np.asanyarray(nifti.dataobj)
    affine = np.array(nifti.affine, dtype=np.float64)
    if not affine[:3, 2].any():  # of a single slice some writers place the plane alone
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return Decoded(values, affine, full_scale_of(values), colour=False)


def load_nifti(path: Path, max_values: int = MAX_VALUES) -> nib.Nifti1Image:
    """A NIfTI file whose bytes were read whole; errors of any type where they are damaged or more than `max_values`."""
    with _nifti_stream(path) as stream:
        kind, header, head = _nifti_header(stream)
        _refuse_large(header.get_data_shape(), header.get_data_dtype().itemsize, max_values)
        offset = int(header.get_data_offset())
        if not 0 <= offset <= _MAX_NIFTI_OFFSET:
            raise ValueError(f"its header claims that the data start at byte {offset}")
        length = offset + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        content = head + stream.read(max(length - len(head), 0))
        if len(content) < length:
            raise EOFError(f"{len(content)} bytes where the header promises {length}")
        if len(stream.read(_MAX_TRAILING + 1)) > _MAX_TRAILING:  # gzip verifies its checksum only at the end
            raise ValueError(f"more than {_MAX_TRAILING} bytes after the data")
    return kind.from_bytes(content)


def load_nifti_header(path: Path) -> nib.Nifti1Header:
    """The header alone, from the first bytes of a NIfTI file; errors of any type where they are damaged."""
    with _nifti_stream(path) as stream:
        return _nifti_header(stream)[1]


def _nifti_stream(path: Path):
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _nifti_header(stream) -> tuple[type[nib.Nifti1Image], nib.Nifti1Header, bytes]:
    """The kind of NIfTI, its header without the extensions, and the bytes that were read to tell."""
    head = stream.read(_NIFTI_HEAD)
    kind = nib.Nifti2Image if nib.Nifti2Header.may_contain_header(head) else nib.Nifti1Image
    return kind, kind.header_class(head[: kind.header_class.sizeof_hdr]), head


def _decode_npy(path: Path) -> Decoded:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # reads the header only
    if not isinstance(mapped, np.ndarray):
        raise TypeError("an archive of several arrays, not one array")
    _refuse_large(mapped.shape, mapped.dtype.itemsize)
    values = np.array(mapped)
    return Decoded(values, PLANE_AFFINE.copy(), full_scale_of(values), colour=False)


def _pages(path: Path, count: int) -> ValueProblem:
    return ValueProblem(
        f"a stack of {count} pages",
        "one page, for a file is one slice",
        f"save the {count} pages as separate files, e.g. {path.stem}_000.tif to {path.stem}_{count - 1:03d}.tif",
    )


def upright(image: Image.Image) -> Image.Image:
    """An opened image as viewers show it, turned by its EXIF orientation; errors of any type for damaged pixels.

    ImageOps.exif_transpose fails on damaged EXIF data, which viewers ignore.
    """
    image.load()  # turns a TIFF already
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of many unrelated types
        return image
    return image.transpose(_UPRIGHT[stated]) if stated in _UPRIGHT else image


def _decode_image(path: Path) -> Decoded:
    with Image.open(path, formats=_IMAGE_FORMATS) as image:
        if image.format == "PNG":
            image.verify()  # the checksums of all chunks, which decoding alone ignores; it uses the file up
    # By a file, not by its name: Pillow maps a named TIFF into memory, by sides that an orientation exchanges.
    with path.open("rb") as file, Image.open(file, formats=_IMAGE_FORMATS) as image:  # reads the header only
        _refuse_large((image.height, image.width, len(image.getbands())))
        if getattr(image, "n_frames", 1) > 1 and image.format == "TIFF":
            raise _pages(path, image.n_frames)
        # Some versions of the decoder give 16-bit grey PNG as 32-bit integers.
        sixteen_bits = image.mode == "I" and image.format == "PNG"
        if image.mode in _CONVERTED_MODES:
            values = np.asarray(upright(image).convert(_CONVERTED_MODES[image.mode]))
        elif image.mode in _DIRECT_MODES:
            values = np.asarray(upright(image))
        else:
            raise ValueError(f"the colour mode {image.mode} is not supported")
    full_scale = 65535.0 if sixteen_bits else full_scale_of(values)
    return Decoded(values, PLANE_AFFINE.copy(), full_scale, colour=True)
