"""Folders of volumes as archives and people keep them: which files are one scan, and what each shows.

Known are patient folders and flat folders with the contrast at the end of the file's name (BraTS 2017 to 2024, IXI,
UPENN-GBM, ...), BIDS, the Medical Segmentation Decathlon and nnU-Net (dataset.json), and patient folders of colour TIFF
slices with masks (kaggle_3m). Files alone are listed here; no image is read.
"""

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.naming import BRATS_CHANNELS, LABEL, channel_order, endings_of, named
from uad.data.reading.volumes import holds_dicom, volume_stem
from uad.errors import InputError, Problem, input_error

EXPECTED = (
    "patient folders such as BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz, a flat folder of "
    "<scan>_<contrast>.nii.gz, BIDS, or a folder with dataset.json"
)
PATIENT_FOLDER = re.compile(r"BraTS(20_Training_\d+|2021_\d+|-[A-Za-z]+(-RT)?-\d+-\d+)")
TIFF_SLICE = re.compile(r"(.+)_(\d+)\.tiff?", re.IGNORECASE)
TIFF_MASK = re.compile(r"(.+)_(\d+)_mask\.tiff?", re.IGNORECASE)
# kaggle_3m: what red, green and blue hold.
TIFF_CHANNELS = ("t1", "flair", "t1ce")


class Source(NamedTuple):
    """Where one channel lies. paths: a volume, a DICOM folder, or slices in their order; component: which channel of a
    file that holds several, None of a file that holds one.
    """

    paths: tuple[Path, ...]
    component: int | None = None


class Scan(NamedTuple):
    """One examination of one patient. files: channel, or LABEL, -> source."""

    name: str
    where: Path
    files: dict[str, Source]


class Found(NamedTuple):
    """scans: sorted by name; channels: in the order in which they are stored; foreign: files that are no volume."""

    scans: list[Scan]
    channels: tuple[str, ...]
    foreign: int


def find_scans(data_dir: Path, channels: Sequence[str] | None = None, labelled: bool = True) -> Found:
    """All scans below a folder.

    channels: which, in this order, as `flair` or, where the file's name has another ending, `flair=ENDING`; None: the
    four of BraTS where folders are named so, else every contrast that is there. labelled: a scan has a segmentation.
    Raises InputError with every scan that misses a volume or has one twice.
    """
    if not data_dir.is_dir():
        found = "a file" if data_dir.exists() else "no such folder"
        raise input_error(data_dir, found, EXPECTED, "correct --data_dir or unpack the release")
    endings = endings_of(channels)
    wanted = tuple(channel.partition("=")[0] for channel in channels or ())
    files = list(_walk(data_dir))
    decathlon = [path for path in files if path.name == "dataset.json" and (path.parent / "imagesTr").is_dir()]
    if decathlon:
        entries = [entry for path in decathlon for entry in _decathlon(path, labelled)]
    else:
        entries = [*_tiff_stacks(files), *_named_volumes(files, endings, wanted)]
    scans, names, problems = _complete(entries, wanted, labelled)
    places = [scan.where for scan in scans]
    for folder in _patient_folders(data_dir):
        if not any(folder == place or folder in place.parents for place in places):
            problems.append(
                Problem(str(folder), "no volume", EXPECTED, "fetch the patient again, or remove the folder")
            )
    if not scans:
        problems.append(_nothing(data_dir, files))
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    used = {path for entry in entries for path in entry.source.paths}
    folders = {path for path in used if path.is_dir()}
    foreign = sum(path not in used and not folders & set(path.parents) for path in files)
    return Found(scans, names, foreign)


def scans_of_files(files: Sequence[Path], channels: Sequence[str]) -> list[Scan]:
    """The scans that volumes make, by their names: all are needed of each; InputError as find_scans."""
    scans, _, problems = _complete(
        list(_named_volumes(files, endings_of(channels), channels)), channels, labelled=False
    )
    if not scans and not problems:
        expected = f"names that end in their contrast: {', '.join(channels)}"
        remedy = "state them: --channels NAME=FILE ..."
        problems = [Problem(str(path), "a volume whose name tells no contrast", expected, remedy) for path in files]
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    return scans


def _complete(
    entries: Sequence["_Entry"], wanted: Sequence[str], labelled: bool
) -> tuple[list[Scan], tuple[str, ...], list[Problem]]:
    """Scans with what is needed of them, the channels' names, and what is missing or there twice."""
    scans, problems = _gather(entries)
    shown = {channel for scan in scans for channel in scan.files}
    names = tuple(wanted) or (BRATS_CHANNELS if any(map(is_brats, scans)) else channel_order(shown))
    needed = (*names, LABEL) if labelled else names
    problems += [problem for scan in scans for problem in _missing(scan, needed)]
    kept = [scan._replace(files={name: scan.files[name] for name in needed if name in scan.files}) for scan in scans]
    return sorted(kept), names, problems


class _Entry(NamedTuple):
    """A file and what its name says; shows is None where that is not known."""

    scan: str
    shows: str | None
    source: Source


def _walk(data_dir: Path) -> Iterator[Path]:
    """Files below a folder, and folders that are one volume; every folder once, however links lead there."""
    seen = set()
    for place, folders, names in os.walk(data_dir, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in list(folders):
            inside = volume_stem(name) is not None and _only_volume(Path(place) / name)
            if inside:  # unpacking makes `x_flair.nii/` with the file in it
                folders.remove(name)
                yield inside
        yield from (Path(place) / name for name in sorted(names))


def _only_volume(folder: Path) -> Path | None:
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and volume_stem(path.name)]
    return files[0] if len(files) == 1 else None


def _named_volumes(files: Sequence[Path], endings: dict[str, str], wanted: Sequence[str]) -> Iterator[_Entry]:
    """Volumes with their contrast in the name; where no name has one, all are what `wanted` says."""
    entries = []
    volumes = [path for path in files if path.name[0] != "." and volume_stem(path.name)]
    places = {path.parent for path in files if not volume_stem(path.name)}
    for path in [*volumes, *sorted(place for place in places if holds_dicom(place))]:
        # The folder of `x_flair.nii/y.nii` says what its file shows.
        stem = volume_stem(path.parent.name) or volume_stem(path.name) or path.name
        scan, shows = named(stem, endings)
        derived = "derivatives" in path.parts and shows != LABEL
        if not derived:
            entries.append(_Entry(scan or _folder_name(path), shows, Source((path,))))
    if wanted and not any(entry.shows in wanted for entry in entries):
        yield from (entry for entry in entries if entry.shows == LABEL)
        for entry in entries:
            for component, channel in enumerate(wanted if entry.shows is None else ()):
                yield entry._replace(
                    shows=channel, source=entry.source._replace(component=component if len(wanted) > 1 else None)
                )
        return
    yield from entries


def _folder_name(path: Path) -> str:
    return path.resolve().parent.name


def _tiff_stacks(files: Sequence[Path]) -> Iterator[_Entry]:
    """Patients of kaggle_3m: folders in which a TIFF slice has a mask beside it."""
    masks, slices = defaultdict(dict), defaultdict(dict)
    for path in files:
        for pattern, found in ((TIFF_MASK, masks), (TIFF_SLICE, slices)):
            match = pattern.fullmatch(path.name)
            if match and path.name[0] != ".":
                found[path.parent, match[1]][int(match[2])] = path
    for key, stack in slices.items():
        if key in masks:
            paths = tuple(stack[number] for number in sorted(stack))
            for component, channel in enumerate(TIFF_CHANNELS):
                yield _Entry(key[1], channel, Source(paths, component))
            yield _Entry(key[1], LABEL, Source(tuple(masks[key][number] for number in sorted(masks[key]))))


def _decathlon(description: Path, labelled: bool) -> Iterator[_Entry]:
    """The scans that a dataset.json lists, or, of nnU-Net, those in imagesTr."""
    root = description.parent
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        names = content.get("modality") or content["channel_names"]
        shown = [str(names[key]) for key in sorted(names, key=int)]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        expected = "a dataset.json with `modality` or `channel_names`"
        raise input_error(
            description, f"unreadable ({type(error).__name__}: {error})", expected, "fetch it again"
        ) from error
    endings = endings_of(None)
    channels = [endings.get(name.lower(), name.lower()) for name in shown]
    listed = [(entry["image"], entry.get("label")) for entry in content.get("training", []) if isinstance(entry, dict)]
    if not labelled:
        listed += [(entry["image"] if isinstance(entry, dict) else entry, None) for entry in content.get("test", [])]
    if listed:
        for image, label in listed:
            scan = volume_stem(Path(image).name) or Path(image).name
            for component, channel in enumerate(channels):
                yield _Entry(scan, channel, Source((root / image,), component if len(channels) > 1 else None))
            if label and labelled:
                yield _Entry(scan, LABEL, Source((root / label,)))
        return
    for path in sorted((root / "imagesTr").iterdir()):
        match = re.fullmatch(r"(.+)_(\d{4})", volume_stem(path.name) or "")
        if match and path.name[0] != "." and int(match[2]) < len(channels):
            yield _Entry(match[1], channels[int(match[2])], Source((path,)))
    for path in sorted((root / "labelsTr").glob("*")) if labelled else ():
        if path.name[0] != "." and volume_stem(path.name):
            yield _Entry(volume_stem(path.name), LABEL, Source((path,)))


def _gather(entries: Sequence[_Entry]) -> tuple[list[Scan], list[Problem]]:
    """Files to scans by their names; a segmentation of another name goes to the one scan of its folder."""
    images = defaultdict(list)
    for entry in entries:
        if entry.shows not in (None, LABEL):
            images[entry.scan].append(entry)
    scan_in = defaultdict(set)
    for scan, found in images.items():
        for entry in found:
            scan_in[entry.source.paths[0].parent].add(scan)
    for entry in entries:
        if entry.shows == LABEL:
            beside = scan_in[entry.source.paths[0].parent]
            name = entry.scan if entry.scan in images or len(beside) != 1 else next(iter(beside))
            if name in images:
                images[name].append(entry)
    scans, problems = [], []
    for scan, found in images.items():
        counts = Counter(entry.shows for entry in found)
        for shows in (shows for shows, count in counts.items() if count > 1):
            where = ", ".join(str(entry.source.paths[0]) for entry in found if entry.shows == shows)
            remedy = "remove the copies, or choose one by --channels NAME=ENDING"
            problems.append(Problem(where, f"{counts[shows]} {shows} volumes of {scan}", "one a scan", remedy))
        where = found[0].source.paths[0].parent
        scans.append(Scan(scan, where, {entry.shows: entry.source for entry in found}))
    return scans, problems


def _missing(scan: Scan, needed: Sequence[str]) -> Iterator[Problem]:
    for shows in needed:
        if shows in scan.files:
            continue
        there = ", ".join(scan.files)
        if shows == LABEL:
            expected = f"{scan.name}_seg.nii.gz, or another of the known endings"
            remedy = "add it; --no_labels prepares scans without, --healthy those of healthy people"
        else:
            known = ", ".join(ending for ending, channel in endings_of(None).items() if channel == shows)
            expected = f"a file whose name ends in one of {known or shows}"
            remedy = (
                "fetch the scan again or remove it, choose by --channels, or state the name: --channels NAME=ENDING"
            )
        yield Problem(str(scan.where), f"no {shows} volume of {scan.name}; there are {there}", expected, remedy)


def is_brats(scan: Scan) -> bool:
    """Whether a scan is named as those of a BraTS release."""
    return bool(PATIENT_FOLDER.fullmatch(scan.name)) or scan.name.lower().startswith(("brats1", "brats2"))


def _patient_folders(data_dir: Path) -> list[Path]:
    return [
        Path(place) / name
        for place, folders, _ in os.walk(data_dir)
        for name in folders
        if PATIENT_FOLDER.fullmatch(name)
    ]


def _nothing(data_dir: Path, files: Sequence[Path]) -> Problem:
    volumes = [path.name for path in files if path.name[0] != "." and volume_stem(path.name)]
    if volumes:
        found = f"{len(volumes)} volumes, none named by its contrast, e.g. {volumes[0]}"
        remedy = "say what they show: --channels NAME for one contrast, the names in order for files with several"
        return Problem(str(data_dir), found, EXPECTED, remedy)
    there = f"; it holds {', '.join(path.name for path in files[:3])}" if files else ""
    return Problem(str(data_dir), f"no volume below it{there}", EXPECTED, "correct --data_dir")
