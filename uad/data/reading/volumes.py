"""Volumes as scanners and archives write them: NIfTI, and MetaImage, NRRD and DICOM series through SimpleITK.

Values and affine are those of the file; uad.data.reading.geometry turns them to one orientation.
"""

import locale
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from uad.data.reading.decoding import NIFTI_EXTENSIONS, cannot_open, load_nifti, load_nifti_header, words_of
from uad.data.reading.encoding import write_nifti
from uad.data.reading.geometry import SIDES, Grid, affine_fault, displacement, size_fault
from uad.errors import input_error

ITK_EXTENSIONS = (".mha", ".mhd", ".nrrd", ".nhdr")
VOLUME_EXTENSIONS = (*NIFTI_EXTENSIONS, *ITK_EXTENSIONS)
DICOM_EXTENSIONS = (".dcm", ".ima")
EXTRA = "pip install 'masked-bernoulli-diffusion[formats]'"
# 512 x 512 x 512 voxels; a header that claims more is damaged.
MAX_VOXELS = 2**27
# By so much, in voxel sides, qform and sform may place a voxel differently: rounding of the stored quaternion.
FORMS_AGREE = 0.1
# Steps between the slices of a DICOM series that differ by less than this share are rounding.
UNEVEN = 0.05
# Where a slice lies: Image Position (Patient) and Image Orientation (Patient).
_PATIENT_ID = "0010|0020"
_DICOM_PLACE = ("0020|0032", "0020|0037")
# ITK places voxels in LPS coordinates, NIfTI in RAS.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_EXPECTED = "a volume: three axes longer than 1, and maybe a fourth for channels"


class Volume(NamedTuple):
    """A volume in the file's own layout.

    values: (X, Y, Z) or (X, Y, Z, C), real numbers; affine: (4, 4) float64, index to millimetres in RAS+;
    notices: what a person should know of the header.
    """

    values: np.ndarray
    affine: np.ndarray
    notices: tuple[str, ...] = ()

    @property
    def grid(self) -> Grid:
        """Where the voxels lie."""
        return Grid(self.values.shape[:3], self.affine)


class Header(NamedTuple):
    """What is known of a volume before its values are read; channels: 1 for three axes; notices: as in Volume."""

    grid: Grid
    channels: int
    notices: tuple[str, ...]


def volume_stem(name: str) -> str | None:
    """A file name without its volume extension, None where it has none."""
    extension = next((each for each in VOLUME_EXTENSIONS if name.lower().endswith(each)), None)
    return name[: -len(extension)] if extension else None


def read_volume(path: Path | str) -> Volume:
    """Read a volume file or the folder of one DICOM series.

    Axes of length 1 after the third are dropped. Raises InputError for a missing, damaged or huge file, what is no
    volume, an affine that places nothing, voxels of no scan's size, and where SimpleITK is needed and missing.
    """
    path = Path(path)
    if volume_stem(path.name) is None or path.name.lower().endswith(ITK_EXTENSIONS) or path.is_dir():
        values, affine = _read_by_itk(path)
        notices: tuple[str, ...] = ()
    else:
        image = _guarded(path, lambda: load_nifti(path, MAX_VOXELS))
        values = _guarded(path, lambda: np.asanyarray(image.dataobj))
        affine, notices = _placed(path, image.header)
    values = values.reshape(_volume_shape(path, values.shape))
    if values.dtype.kind not in "buif":
        found = f"values of type {values.dtype}"
        raise input_error(path, found, "real numbers", "convert the intensities to float32")
    return _sized(path, Volume(values, affine, notices))


def read_header(path: Path | str) -> Header:
    """The header of a volume; InputError as read_volume, as far as the header tells."""
    path = Path(path)
    if volume_stem(path.name) is None or path.name.lower().endswith(ITK_EXTENSIONS) or path.is_dir():
        volume = read_volume(path)
        return Header(volume.grid, (*volume.values.shape, 1)[3], ())
    header = _guarded(path, lambda: load_nifti_header(path))
    shape = _volume_shape(path, header.get_data_shape())
    affine, notices = _placed(path, header)
    return _sized(path, Header(Grid(shape[:3], affine), (*shape, 1)[3], notices))


def nifti_shape(path: Path) -> tuple[int, ...]:
    """The axes that a NIfTI header states, of a slice or a volume; InputError for a missing or damaged file."""
    return _guarded(path, lambda: load_nifti_header(path).get_data_shape())


def write_volume(path: Path | str, values: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z) or (X, Y, Z, C) as `.nii.gz` with the affine in the sform, and in the qform unless it is sheared.

    uint8 and bool are stored as uint8, all else as float32; equal content gives equal bytes. ValueError for another
    extension.
    """
    if not str(path).endswith(".nii.gz"):
        raise ValueError(f"{path}: volumes are written as .nii.gz")
    stored = values.astype(np.uint8 if values.dtype in (np.uint8, np.bool_) else np.float32)
    nifti = nib.Nifti1Image(np.ascontiguousarray(stored), np.asarray(affine, dtype=np.float64))
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if np.allclose(directions.T @ directions, np.eye(3), atol=1e-4):  # a qform holds no shear
        nifti.set_qform(affine, code="aligned")
    write_nifti(path, nifti)


def _guarded(path: Path, read):
    """What `read` gives; damaged bytes surface as a dozen unrelated exceptions, which all become an InputError."""
    try:
        return read()
    except FileNotFoundError as error:
        raise input_error(path, "no such file", "a volume", "correct the path") from error
    except PermissionError as error:
        raise cannot_open(path, error) from error
    except Exception as error:
        remedy = "it is damaged, cut off or of another type than its name says: copy or create it again, or remove it"
        found = f"unreadable ({words_of(error, path)})"
        raise input_error(path, found, "a complete volume", remedy) from error


def _volume_shape(path: Path, shape) -> tuple[int, ...]:
    """The shape without axes of length 1 after the third; InputError for what is no volume."""
    kept = [*shape[:3], *(size for size in shape[3:] if size != 1)]
    if len(kept) not in (3, 4) or min(kept) < 1 or sorted(kept[:3])[1] < 2:
        remedy = "single slices go into a folder of slices; several time points or directions into files of their own"
        raise input_error(path, f"an array of shape {tuple(shape)}", _EXPECTED, remedy)
    return tuple(int(size) for size in kept)


def _placed(path: Path, header: nib.Nifti1Header) -> tuple[np.ndarray, tuple[str, ...]]:
    """The affine of a NIfTI header, and what is doubtful about it; InputError for one that places nothing in mm."""
    unit = header.get_xyzt_units()[0]
    if unit in ("meter", "micron"):
        remedy = "write the file again in millimetres"
        raise input_error(path, f"lengths in the unit {unit}", "millimetres", remedy)
    affine = np.asarray(_guarded(path, header.get_best_affine), dtype=np.float64)
    fault = affine_fault(affine)
    if fault:
        remedy = "write the file again with a valid sform or qform"
        raise input_error(path, fault, "an affine that places the voxels", remedy)
    sform, has_sform = header.get_sform(coded=True)
    qform, has_qform = _guarded(path, lambda: header.get_qform(coded=True))
    if not has_sform and not has_qform:
        return affine, ("the header states no orientation (qform and sform codes are 0): taken for LAS, as viewers do",)
    if has_sform and has_qform:
        shape = (*header.get_data_shape(), 1, 1, 1)[:3]
        one, other = Grid(shape, sform), Grid(shape, qform)
        apart = displacement(one, other)
        if apart > FORMS_AGREE * min(one.spacing):
            stated = f"qform ({other.orientation}) and sform ({one.orientation})"
            return affine, (f"{stated} place a voxel {apart:.3g} mm apart: the sform is used",)
    return affine, ()


def _sized(path: Path, read):
    """A Volume or Header; InputError where its voxels cannot be of a scan."""
    fault = size_fault(read.grid)
    if fault:
        expected = f"sides of {SIDES[0]:g} to {SIDES[1]:g} mm"
        remedy = "write the file again in millimetres: lengths may be in metres or microns without saying so"
        raise input_error(path, fault, expected, remedy)
    return read


@contextmanager
def locale_kept() -> Iterator[None]:
    """The process's locale stays as it is: reading and writing DICOM sets it to "C", in which text is ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, before)


def _itk_for(path: Path):
    """SimpleITK; InputError where it is missing."""
    try:
        import SimpleITK as sitk  # noqa: N813 (its usual name); an extra that few need
    except ImportError as error:
        found = "a format that needs SimpleITK, which is not installed"
        raise input_error(path, found, f"{', '.join(NIFTI_EXTENSIONS)}, or the extra `formats`", EXTRA) from error
    return sitk


def _read_by_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (X, Y, Z[, C]) and affine of what SimpleITK reads."""
    if not path.exists():
        raise input_error(path, "no such file or folder", "a volume", "correct the path")
    sitk = _itk_for(path)
    with locale_kept():
        source = _dicom_series(path, sitk) if path.is_dir() else str(path)
        image = _guarded(path, lambda: sitk.ReadImage(source) if path.is_dir() else _read_itk_file(source, sitk))
    dimensions = image.GetDimension()
    if dimensions == 4:  # a fourth axis in space and time: channels
        parts = [image[..., index] for index in range(image.GetSize()[3])]
        values = np.stack([sitk.GetArrayFromImage(part).transpose() for part in parts], axis=-1)
        image = parts[0]
    elif dimensions == 3:
        values = sitk.GetArrayFromImage(image).transpose(
            (2, 1, 0, 3)[: 3 + (image.GetNumberOfComponentsPerPixel() > 1)]
        )
    else:
        remedy = "single slices go into a folder of slices"
        raise input_error(path, f"an image of {dimensions} dimensions", _EXPECTED, remedy)
    return values, _itk_affine(image)


def _read_itk_file(source: str, sitk):
    """One file, whose header is read first: a claim of a huge image is refused before memory is used."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(source)
    reader.ReadImageInformation()
    claimed = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    if claimed > MAX_VOXELS:
        raise ValueError(f"its header claims {claimed} values; at most {MAX_VOXELS} are read")
    return reader.Execute()


def _itk_affine(image) -> np.ndarray:
    """(4, 4), index to millimetres in RAS+, of a SimpleITK image of three dimensions."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _LPS_TO_RAS @ affine


def _dicom_series(folder: Path, sitk) -> list[str]:
    """The files of the one DICOM series in a folder; InputError for none or several."""
    reader = sitk.ImageSeriesReader
    series = _guarded(folder, lambda: reader.GetGDCMSeriesIDs(str(folder)))
    if len(series) == 1:
        files = list(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
        _check_evenly_placed(folder, [_dicom_position(file, sitk) for file in files])
        return files
    if not series:
        raise input_error(
            folder, "no DICOM file", "the files of one DICOM series, or a volume file", "correct the path"
        )
    counts = [f"{name} ({len(reader.GetGDCMSeriesFileNames(str(folder), name))} files)" for name in series[:5]]
    found = f"{len(series)} DICOM series: {', '.join(counts)}"
    raise input_error(folder, found, "one series", "move each series into a folder of its own")


def _dicom_header(file: str, sitk):
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    _guarded(Path(file), reader.ReadImageInformation)
    return reader


def dicom_patient(folder: Path) -> str | None:
    """The PatientID that a file of a DICOM series states, None where it states none; InputError where it cannot be read
    and where SimpleITK is missing.
    """
    sitk = _itk_for(folder)
    file = next(
        path for path in _visible_files(folder) if path.name.lower().endswith(DICOM_EXTENSIONS) or _is_dicom(path)
    )
    with locale_kept():
        header = _dicom_header(str(file), sitk)
    stated = header.GetMetaData(_PATIENT_ID) if header.HasMetaDataKey(_PATIENT_ID) else ""
    return stated.strip(" \0") or None


def _dicom_position(file: str, sitk) -> float | None:
    """Millimetres along the normal of its plane at which a file's slice lies; None where it does not state that."""
    reader = _dicom_header(file, sitk)
    if not all(map(reader.HasMetaDataKey, _DICOM_PLACE)):
        return None
    place, directions = (np.array(reader.GetMetaData(key).split("\\"), dtype=float) for key in _DICOM_PLACE)
    return float(place @ np.cross(directions[:3], directions[3:]))


def _check_evenly_placed(folder: Path, positions: Sequence[float | None]) -> None:
    """InputError where slices are missing, or several lie at one place, as those of two echoes: read as one volume,
    neither would be where it belongs."""
    if len(positions) < 3 or None in positions:
        return
    steps = np.abs(np.diff(sorted(positions)))
    usual = float(np.median(steps))
    if steps.min() < UNEVEN * usual or usual == 0:
        same = int((steps < max(UNEVEN * usual, 1e-3)).sum())
        found = f"{len(positions)} slices, {same} of which lie where another one does"
        remedy = "move each echo, phase or repetition into a folder of its own"
        raise input_error(folder, found, "one slice at each place", remedy)
    if steps.max() > (1 + UNEVEN) * usual:
        found = f"slices {usual:.4g} mm apart, but up to {steps.max():.4g} mm"
        raise input_error(folder, found, "slices that are evenly apart", "fetch the files that are missing")


def holds_dicom(folder: Path) -> bool:
    """Whether files in a folder are DICOM, by their names or by the mark that follows the preamble."""
    files = _visible_files(folder)
    return any(path.name.lower().endswith(DICOM_EXTENSIONS) for path in files) or any(map(_is_dicom, files[:3]))


def _visible_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."]


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
