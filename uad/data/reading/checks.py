"""Checks of a folder of slices before anything is computed; all problems are reported together."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.data.reading.decoding import cannot_open
from uad.data.reading.folder import normalised, read_labelled
from uad.data.reading.formats import RawSlice
from uad.data.reading.listing import Listing, labels_folder
from uad.data.reading.normalise import is_lifted
from uad.data.reading.patients import TRAIN, patient_of
from uad.data.reading.released import Place, Released, list_images
from uad.data.reading.remembering import Memory
from uad.data.reading.spreading import spread
from uad.data.reading.summary import FolderSummary
from uad.errors import InputError, Problem


class _Report(NamedTuple):
    """What one file was found to be: no image is kept."""

    problems: list[Problem]
    size: tuple[int, int] | None = None
    minimum: float = float("inf")
    maximum: float = float("-inf")
    labelled: bool = False
    lesion: bool = False
    flat_channel: bool = False
    marked: bool = False
    mostly_lesion: bool = False
    lifted: bool = False


@dataclass(frozen=True)
class _Expected:
    n_channels: int
    img_size: int
    normalise: str
    healthy: bool
    need_labels: bool


def check_folder(
    folder: Place,
    n_channels: int,
    img_size: int,
    normalise: str,
    batch_size: int | None = None,
    healthy: bool = False,
    workers: int = 2,
    need_labels: bool = False,
    patients: Mapping[str, str] | None = None,
) -> FolderSummary:
    """Read every slice and mask of a folder and raise one InputError with all that is wrong.

    Found are: a missing or empty folder, two files of one name, fewer images than `batch_size`, unreadable
    or damaged files, volumes, another number of channels, a side shorter than img_size / 2 (any other size
    is resized, which the summary counts), NaN and infinity, constant images, values outside 0..1 where
    `normalise` is "none", negative intensities where `normalise` is "tissue", masks without images and images without
    masks where there are masks (see list_images), masks that are not binary or of another size, a lesion in an image
    that a release calls healthy, with `healthy` any lesion or an image that a release calls diseased, with
    `need_labels` an image without mask.
    Foreign files are counted. patients: see patient_of.

    Each of the `workers`, see spread, holds one image at a time. Files in which nothing was wrong are remembered and
    not read again until they change, see Memory.
    """
    folder = folder if isinstance(folder, Released) else Path(folder)
    listing = list_images(folder)
    slices, problems = listing.slices, list(listing.problems)
    problems += _called_diseased(folder, listing) if healthy else []
    if batch_size is not None and len(slices) < batch_size:
        problems.append(_too_few(folder, len(slices), batch_size))
    expected = _Expected(n_channels, img_size, normalise, healthy, need_labels and not listing.masks)
    reports = _reports(folder, listing, expected, workers)
    problems += [problem for report in reports for problem in report.problems]
    if problems:
        raise InputError(problems)
    return _summary(folder, listing, reports, expected, patients)


def check_disjoint(train_folder: Place, test_folder: Place, patients: Mapping[str, str] | None = None) -> None:
    """Raise InputError when slices of a patient lie in both folders; file names alone are read, and `patients`, see
    patient_of.
    """
    train, test = (patients_in(folder, patients) for folder in (train_folder, test_folder))
    problems = [
        Problem(
            str(test_folder),
            f"patient {patient}: {test[patient]} slice(s) here and {train[patient]} in {train_folder}",
            "no patient in both training and test data, or the scores are too good",
            "move all slices of the patient to one folder; the patient is what stands before the last _<number> "
            "of the name (between the hyphens in CLASS-<patient>-<number>), unless --patients names a table",
        )
        for patient in sorted(train.keys() & test.keys())
    ]
    if problems:
        raise InputError(problems)


def check_split(
    folder: Place, split: Mapping[str, str], training: bool, patients: Mapping[str, str] | None = None
) -> None:
    """Raise InputError for every patient in a folder who is on the wrong side of a split, see read_split.

    Patients in the folder that is trained on must be of part `train`; those in the others must not. Names alone are
    read, and `patients`, see patient_of.
    """
    expected = f"only patients of part {TRAIN}, for they are trained on" if training else f"no patient of part {TRAIN}"
    problems = [
        Problem(
            str(folder),
            f"patient {patient}, {count} slice(s): {split.get(patient, 'in no part')} of the split",
            expected,
            "move the patient's slices to a folder of its part, or correct the table of --split",
        )
        for patient, count in sorted(patients_in(folder, patients).items())
        if (split.get(patient) == TRAIN) != training
    ]
    if problems:
        raise InputError(problems)


def patients_in(folder: Place, patients: Mapping[str, str] | None = None) -> Counter:
    """Slices by patient; names alone are read, and `patients`, see patient_of."""
    return Counter(patient_of(name, patients) for name in list_images(folder).slices)


def data_hash(folder: Place, workers: int = 2) -> str:
    """SHA-256 over names and bytes of a folder's slices and of their masks, and over who is diseased by the release,
    16 hexadecimal digits.

    Files are read again only where they have changed, see Memory.
    """
    listing = list_images(folder)
    files = {f"image {stem}": path for stem, path in listing.slices.items()}
    files |= {f"mask {stem}": listing.masks[stem] for stem in sorted(listing.masks)}
    memory = Memory(folder, "hashes", _part_of(folder))
    contents = memory.recall({name: [path] for name, path in files.items()})
    unknown = [name for name in files if name not in contents]
    try:
        hashes = spread(file_hash, [(files[name],) for name in unknown], workers, f"hashing {Path(folder).name}")
        contents.update(zip(unknown, hashes, strict=True))
    finally:
        memory.remember(contents)
    if isinstance(folder, Released):
        listed = [(name, contents[name], listing.diseased.get(name.partition(" ")[2])) for name in files]
    else:
        listed = [(path.parent == Path(folder), path.name, contents[name]) for name, path in files.items()]
    return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal digits; InputError where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise cannot_open(path, error) from error
    return digest.hexdigest()


def _part_of(folder: Place) -> str | None:
    """What tells the parts of a release apart, which lie in one folder."""
    return repr((folder.part, folder.layout, folder.contrast)) if isinstance(folder, Released) else None


def _called_diseased(folder: Place, listing: Listing) -> list[Problem]:
    """At most one problem: images that a release calls diseased."""
    names = [name for name, diseased in listing.diseased.items() if diseased]
    if not names:
        return []
    found = f"{len(names)} diseased images, e.g. {names[0]}"
    remedy = "choose the part that is for training: --split train"
    return [
        Problem(str(folder), found, "healthy images alone: only they train the model or set its thresholds", remedy)
    ]


def _too_few(folder: Place, count: int, batch_size: int) -> Problem:
    return Problem(
        str(folder),
        f"{count} image{'s' if count != 1 else ''}",
        f"at least one batch of {batch_size}",
        f"lower --batch_size to {count} or less, or add images",
    )


def _reports(folder: Place, listing: Listing, expected: _Expected, workers: int) -> list[_Report]:
    """What every file was found to be, in the order of the listing."""
    masks = {stem: listing.masks.get(stem) for stem in listing.slices}
    empty, healthy = listing.empty, {name for name, diseased in listing.diseased.items() if not diseased}
    # Whether there are masks at all decides about the images without one.
    memory = Memory(folder, "checks", (expected, _part_of(folder), bool(empty), _Report._fields))
    files = {stem: [path] + [masks[stem]] * (masks[stem] is not None) for stem, path in listing.slices.items()}
    reports = {stem: _Report([], tuple(size), *rest) for stem, (size, *rest) in memory.recall(files).items()}
    unknown = [stem for stem in listing.slices if stem not in reports]
    jobs = [(listing.slices[stem], masks[stem], stem in empty, stem in healthy) for stem in unknown]
    try:
        found = spread(partial(_check_file, expected=expected), jobs, workers, f"checking {Path(folder).name}", True)
        reports.update(zip(unknown, found, strict=True))
    finally:  # an interrupted check goes on where it was
        memory.remember({stem: report[1:] for stem, report in reports.items() if not report.problems})
    return [reports[stem] for stem in listing.slices]


def _check_file(path: Path, mask: Path | None, empty: bool, called_healthy: bool, expected: _Expected) -> _Report:
    try:
        raw = read_labelled(path, mask, expected.n_channels, empty)
    except InputError as error:
        return _Report(error.problems)
    problems = [*_size_problems(path, raw, expected), *_label_problems(path, mask, raw, called_healthy, expected)]
    problems += _intensity_problems(path, raw, expected.normalise)
    return _Report(
        problems,
        raw.image.shape[1:],
        float(raw.image.min()),
        float(raw.image.max()),
        raw.label is not None,
        raw.label is not None and bool(raw.label.any()),
        _has_flat_channel(raw.image),
        raw.marked,
        raw.label is not None and float(raw.label.mean()) > 0.5,
        is_lifted(raw.image, expected.normalise),
    )


def _size_problems(path: Path, raw: RawSlice, expected: _Expected) -> Iterable[Problem]:
    height, width = raw.image.shape[1:]
    if 2 * min(height, width) < expected.img_size:
        yield Problem(
            str(path),
            f"an image of {height} x {width}",
            f"sides of at least {-(-expected.img_size // 2)}, half of --img_size {expected.img_size}",
            f"use --img_size {min(height, width)} or less, or images of higher resolution",
        )


def _label_problems(
    path: Path, mask: Path | None, raw: RawSlice, called_healthy: bool, expected: _Expected
) -> Iterable[Problem]:
    if raw.label is None:
        if expected.need_labels:
            yield Problem(
                str(path),
                "an image without a mask",
                f"a mask of the same name in {labels_folder(path.parent)}, or the label as one more channel",
                "add the masks; pixel scores cannot be computed without them",
            )
    elif called_healthy and raw.label.any():
        yield Problem(
            str(mask or path),
            f"{int(raw.label.sum())} lesion pixels, and the release calls the image healthy",
            "no lesion in an image of a healthy class",
            "move the image and its mask to the class that they belong to; correct the mask if the image is healthy",
        )
    elif expected.healthy and raw.label.any():
        yield Problem(
            str(mask or path),
            f"{int(raw.label.sum())} lesion pixels in a folder of healthy images",
            "no lesion: only healthy slices train the model or set its thresholds",
            "move the image and its mask to the diseased folder; correct the mask if the slice is healthy",
        )


def _intensity_problems(path: Path, raw: RawSlice, how: str) -> list[Problem]:
    try:
        normalised(path, raw, how)
    except InputError as error:
        return error.problems
    if raw.image.max() > raw.image.min():
        return []
    return [
        Problem(
            str(path),
            f"a constant image, {raw.image.flat[0]:g} everywhere",
            "an image with contrast",
            "remove the slice (it may lie outside the body), or export it again",
        )
    ]


def _has_flat_channel(image: np.ndarray) -> bool:
    channels = image.reshape(len(image), -1)
    return bool((channels.min(axis=1) == channels.max(axis=1)).any())


def _summary(
    folder: Place,
    listing: Listing,
    reports: list[_Report],
    expected: _Expected,
    patients: Mapping[str, str] | None,
) -> FolderSummary:
    square = (expected.img_size, expected.img_size)
    return FolderSummary(
        folder=folder,
        channels=expected.n_channels,
        images=len(reports),
        labelled=sum(report.labelled for report in reports),
        with_lesion=sum(report.lesion for report in reports),
        mostly_lesion=sum(report.mostly_lesion for report in reports),
        flat_channel=sum(report.flat_channel for report in reports),
        lifted=sum(report.lifted for report in reports),
        resized=sum(report.size != square for report in reports),
        distorted=sum(report.size[0] != report.size[1] for report in reports),
        marked=sum(report.marked for report in reports),
        patients=len({patient_of(name, patients) for name in listing.slices}),
        minimum=min(report.minimum for report in reports),
        maximum=max(report.maximum for report in reports),
        sizes=Counter(report.size for report in reports),
        masks_beside=listing.beside,
        foreign=listing.foreign,
        subfolders=listing.subfolders,
        notices=listing.notices,
    )
