"""The BraTS releases, as they are downloaded, to folders of axial slices split by patient.

A slice without tumour is healthy. Slices of the training patients that show tumour are not used by any
method here; the manifest lists them all the same. Both the names of BraTS2020/2021 (`..._t1.nii.gz`) and
those of the later releases (`...-t1n.nii.gz`) are read, packed or unpacked (`.nii`).
"""

import csv
import hashlib
import io
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np

from uad.configuration import check_configuration
from uad.data.reading.formats import write_slice
from uad.errors import InputError, Problem, input_error
from uad.files import read_json, write_json, write_text

CHANNELS = ("t1", "t1ce", "t2", "flair")
# What the releases call each volume at the end of the file's name.
ENDINGS = {
    **{"t1": "t1", "t1n": "t1", "t1ce": "t1ce", "t1c": "t1ce", "t2": "t2", "t2w": "t2"},
    **{"flair": "flair", "t2f": "flair", "seg": "seg"},
}
VOLUME_NAME = re.compile(rf".+[-_]({'|'.join(ENDINGS)})\.nii(\.gz)?", re.IGNORECASE)
# BraTS20_Training_355 holds its segmentation as W39_1998.09.19_Segm.nii.gz: an error of the release.
MISNAMED_SEGMENTATION = re.compile(r".+[-_]segm\.nii(\.gz)?", re.IGNORECASE)
PATIENT_FOLDER = re.compile(r"BraTS(20_Training_\d+|2021_\d+|-[A-Za-z]+-\d+-\d+)")
EXPECTED_LAYOUT = "<release>/BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz"
MAX_LABEL = 4
# The plane that volumes are padded to before any reduction, as in the authors' line of work (240 + 2 x 8).
PLANE = 256
SPLITS = ("train_healthy", "val_healthy", "val_diseased")
LABELS = "val_diseased_labels"
LEFT_OUT = ("unused_diseased", "unused_little_brain", "unused_tumour_vanishes")
COLUMNS = ("name", "patient", "slice", "split", "tumour_pixels", "brain_pixels", "source")
CONFIGURATION = "prepare_brats.json"
# What nibabel and gzip raise on files that are cut off or are no NIfTI.
READ_ERRORS = (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError)
READ_ERRORS += (nib.spatialimages.HeaderDataError,)


class RawPatient(NamedTuple):
    """One patient's folder; files: volume ("t1", ..., "seg") -> path."""

    name: str
    folder: Path
    files: dict[str, Path]


class Choice(NamedTuple):
    """How to prepare.

    val_patients: share of the patients (below 1) or their number; img_size: 256 or a divisor of it;
    skip_low, skip_high: axial slices left out at the bottom and top; every: keep each such slice of the
    rest; min_brain: least share of a slice's pixels that must be brain.
    """

    val_patients: float
    seed: int
    img_size: int = PLANE
    skip_low: int = 80
    skip_high: int = 26
    every: int = 1
    min_brain: float = 0.02


def find_patients(data_dir: Path) -> list[RawPatient]:
    """All patients below data_dir, sorted by name.

    Raises InputError with every folder that misses a volume, has one twice, or shares its name.
    """
    if not data_dir.is_dir():
        remedy = "correct --data_dir or unpack the release"
        raise input_error(data_dir, "no such folder", EXPECTED_LAYOUT, remedy)
    patients, problems = [], []
    for place, _, names in os.walk(data_dir, followlinks=True):
        files = [(_volume_of(name), Path(place) / name) for name in sorted(names) if name[0] != "."]
        files = [(volume, path) for volume, path in files if volume]
        if not files and not PATIENT_FOLDER.fullmatch(Path(place).name):
            continue
        counts = Counter(volume for volume, _ in files)
        for volume in (*CHANNELS, "seg"):
            if counts[volume] != 1:
                found = f"{counts[volume]} {volume} volumes" if counts[volume] else f"no {volume} volume"
                remedy = "fetch the patient again, or remove its folder (one without seg cannot be used)"
                problems.append(Problem(place, found, f"exactly one: {EXPECTED_LAYOUT}", remedy))
        patients.append(RawPatient(Path(place).name, Path(place), dict(files)))
    for name, count in Counter(patient.name for patient in patients).items():
        if count > 1:
            where = ", ".join(str(patient.folder) for patient in patients if patient.name == name)
            found = f"{count} folders named {name}"
            problems.append(Problem(where, found, "one a patient", "remove the copies"))
    if not patients:
        found = "no patient folder below it"
        problems.append(Problem(str(data_dir), found, EXPECTED_LAYOUT, "correct --data_dir"))
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    return sorted(patients)


def _volume_of(name: str) -> str | None:
    """Which volume a file is by its name, None for other files."""
    match = VOLUME_NAME.fullmatch(name)
    if match:
        return ENDINGS[match.group(1).lower()]
    return "seg" if MISNAMED_SEGMENTATION.fullmatch(name) else None


def header_problems(patient: RawPatient, choice: Choice) -> list[Problem]:
    """What the five headers tell: unreadable files, shapes that differ or are no volume, too few slices."""
    problems, shapes = [], {}
    for volume, path in patient.files.items():
        try:
            shapes[volume] = nib.load(path).shape
        except READ_ERRORS as error:
            problems.append(_unreadable(path, error))
    reference = shapes.get("t1", next(iter(shapes.values()), ()))
    for volume, shape in shapes.items():
        if shape != reference:
            expected = f"the shape {reference} of the patient's other volumes"
            where = str(patient.files[volume])
            problems.append(Problem(where, f"shape {shape}", expected, "fetch the patient again"))
    least = choice.skip_low + choice.skip_high + 1
    if shapes and (len(reference) != 3 or reference[2] < least):
        expected = f"three axes, the last with at least {least} axial slices"
        remedy = "lower --skip_low and --skip_high, or remove the patient"
        problems.append(Problem(str(patient.folder), f"volumes of shape {reference}", expected, remedy))
    return problems


def _unreadable(path: Path, error: Exception) -> Problem:
    return Problem(str(path), f"unreadable ({error})", "a complete NIfTI volume", "fetch the file again")


def load_patient(patient: RawPatient) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """images (4, X, Y, Z) float32 raw intensities, labels (X, Y, Z) uint8, affine (4, 4).

    Raises InputError with all that is wrong in the five files: damage, NaN, empty images, unknown labels.
    """
    problems, volumes = [], {}
    for volume, path in patient.files.items():
        try:
            values = nib.load(path).get_fdata(dtype=np.float32, caching="unchanged")
        except READ_ERRORS as error:
            problems.append(_unreadable(path, error))
            continue
        volumes[volume] = values
        found = _content_fault(values, volume == "seg")
        if found:
            expected = f"labels 0..{MAX_LABEL}" if volume == "seg" else "finite intensities, brain above 0"
            remedy = "fetch the file again, or remove the patient"
            problems.append(Problem(str(path), found, expected, remedy))
    if problems:
        raise InputError(problems)
    affine = nib.load(patient.files["t1"]).affine
    return np.stack([volumes[name] for name in CHANNELS]), volumes["seg"].astype(np.uint8), affine


def _content_fault(values: np.ndarray, is_labels: bool) -> str | None:
    """What is wrong with a volume's values, None if nothing is."""
    faulty = np.count_nonzero(~np.isfinite(values))
    if faulty:
        return f"{faulty} voxels are NaN or infinite"
    if is_labels:
        unknown = np.setdiff1d(values, np.arange(MAX_LABEL + 1))
        return f"labels {', '.join(f'{value:g}' for value in unknown[:5])}" if unknown.size else None
    return "the same value in every voxel" if values.min() == values.max() else None


def split_patients(names: Sequence[str], val_patients: float, seed: int) -> set[str]:
    """The validation patients, a seeded choice: a share of all when below 1, else a number.

    Raises InputError when training or validation would have no patient.
    """
    count = max(1, round(val_patients * len(names))) if val_patients < 1 else round(val_patients)
    if not 0 < count < len(names):
        found = f"{count} of {len(names)} patients would be for validation"
        remedy = "choose another number or add patients"
        raise input_error("--val_patients", found, "at least one patient on each side", remedy)
    ordered = sorted(names)
    return {ordered[i] for i in np.random.default_rng(seed).permutation(len(ordered))[:count]}


def fit_plane(image: np.ndarray, label: np.ndarray, affine: np.ndarray, level: int, img_size: int):
    """One axial slice at the prepared size: image (C, S, S) float32, label (S, S) uint8 0/1, affine (4, 4).

    image: (C, X, Y); label: (X, Y), 1..4 = tumour; affine: of the volume; level: index of the slice. The
    plane is padded with 0 (or cropped) to 256 about its centre; a smaller img_size takes the mean over
    blocks of pixels, and a block is tumour where at least half of it is. The affine follows: it maps
    (h, w, 0) to where the pixel's centre lay.
    """
    factor = PLANE // img_size
    start = [(PLANE - size) // 2 for size in image.shape[1:]]
    planes = np.concatenate([image, label[None] > 0]).astype(np.float32)
    before = [max(0, offset) for offset in start]
    cut = planes[:, max(0, -start[0]) :, max(0, -start[1]) :][:, :PLANE, :PLANE]
    after = [PLANE - pad - size for pad, size in zip(before, cut.shape[1:], strict=True)]
    cut = np.pad(cut, [(0, 0), (before[0], after[0]), (before[1], after[1])])
    blocks = cut.reshape(len(cut), img_size, factor, img_size, factor).mean((2, 4), dtype=np.float32)
    to_volume = np.diag([factor, factor, 1.0, 1.0])
    to_volume[:3, 3] = [(factor - 1) / 2 - start[0], (factor - 1) / 2 - start[1], level]
    return blocks[:-1], (blocks[-1] >= 0.5).astype(np.uint8), affine @ to_volume


def prepare_patient(patient: RawPatient, validation: bool, out: Path, choice: Choice) -> list[list]:
    """Write a patient's slices and return the rows of the manifest (COLUMNS); InputError as load_patient."""
    images, labels, affine = load_patient(patient)
    rows = []
    for level in range(choice.skip_low, images.shape[3] - choice.skip_high, choice.every):
        plane, mask = images[..., level], labels[..., level]
        brain, tumour = int((plane != 0).any(0).sum()), int((mask > 0).sum())
        image, label, slice_affine = fit_plane(plane, mask, affine, level, choice.img_size)
        if brain < choice.min_brain * mask.size:
            split = "unused_little_brain"
        elif tumour == 0:
            split = "val_healthy" if validation else "train_healthy"
        elif not validation:
            split = "unused_diseased"
        else:
            split = "val_diseased" if label.any() else "unused_tumour_vanishes"
        name = f"{patient.name}_{level:03d}"
        contents = {split: image} if split in SPLITS else {}
        if split == "val_diseased":
            contents[LABELS] = label
        for folder in (LABELS, *SPLITS):
            path = out / folder / f"{name}.nii.gz"
            if folder in contents:
                write_slice(path, contents[folder], slice_affine)
            else:
                # A patient whose files were replaced since may have had this slice here.
                path.unlink(missing_ok=True)
        rows.append([name, patient.name, level, split, tumour, brain, str(patient.folder)])
    write_json(_progress_file(out, patient), {"files": _sizes(patient), "rows": rows})
    return rows


def _progress_file(out: Path, patient: RawPatient) -> Path:
    """The patient's rows of the manifest; written last, so it says that the patient is complete."""
    return out / "patients" / f"{patient.name}.json"


def _sizes(patient: RawPatient) -> dict[str, int]:
    """Name and bytes of the patient's files, by which replaced files are noticed."""
    return {path.name: path.stat().st_size for path in patient.files.values()}


def _finished_rows(out: Path, patient: RawPatient) -> list[list] | None:
    """The rows of a patient who is complete and whose files are still the same, else None."""
    path = _progress_file(out, patient)
    finished = read_json(path) if path.is_file() else None
    if finished is None or finished["files"] != _sizes(patient):
        return None
    written = [(row[0], row[3]) for row in finished["rows"] if row[3] in SPLITS]
    written += [(stem, LABELS) for stem, split in written if split == "val_diseased"]
    complete = all((out / folder / f"{stem}.nii.gz").is_file() for stem, folder in written)
    return finished["rows"] if complete else None


def _attempt(patient: RawPatient, validation: bool, out: Path, choice: Choice):
    """(name, rows, problems): errors in the files come back as values, to be reported together."""
    try:
        return patient.name, prepare_patient(patient, validation, out, choice), []
    except InputError as error:
        return patient.name, [], error.problems


def prepare(
    patients: Sequence[RawPatient], out: Path, choice: Choice, workers: int = 1
) -> Iterator[tuple[str, list[list], list[Problem]]]:
    """Prepare all patients; yields (patient, its manifest rows, problems in its files) as each is done.

    Before anything is written, raises InputError with all problems of the headers, or all differences to
    the configuration that `out` was begun with. Complete patients are made again only if their files have
    changed. At the end the manifest is written, or InputError raised if any patient had a problem.
    """
    problems = [problem for patient in patients for problem in header_problems(patient, choice)]
    if problems:
        raise InputError(problems)
    validation = split_patients([patient.name for patient in patients], choice.val_patients, choice.seed)
    _claim(out, patients, choice)
    rows, tasks = [], []
    for patient in patients:
        finished = _finished_rows(out, patient)
        if finished is None:
            tasks.append((patient, patient.name in validation, out, choice))
        else:
            rows += finished
            yield patient.name, finished, []
    for name, new_rows, new_problems in _run(tasks, workers):
        rows += new_rows
        problems += new_problems
        yield name, new_rows, new_problems
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    write_text(out / "manifest.csv", text.getvalue())


def _run(tasks: Sequence[tuple], workers: int):
    """Results of all tasks as they come, in this process or in several."""
    if workers <= 1 or len(tasks) <= 1:
        yield from (_attempt(*task) for task in tasks)
        return
    # Processes are spawned, for the caller may have threads, which a fork does not survive.
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_attempt, *task) for task in tasks]):
            yield done.result()


def _claim(out: Path, patients: Sequence[RawPatient], choice: Choice) -> None:
    """Record the configuration in `out`; another one that is there already is an error."""
    names = "\n".join(patient.name for patient in patients)
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    release = f"{len(patients)} patients, digest {digest} of their names"
    configuration = {"channels": list(CHANNELS), "release": release, **choice._asdict()}
    path = out / CONFIGURATION
    if not path.is_file():
        used = [folder for folder in SPLITS if (out / folder).is_dir() and any((out / folder).iterdir())]
        if used:
            found = f"{', '.join(used)} with files, but no {CONFIGURATION}"
            raise input_error(out, found, "a new folder, or one begun by this command", "choose another --out")
        write_json(path, configuration)
    check_configuration(path, configuration)
