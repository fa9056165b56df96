"""Folders of volumes as archives and people keep them: which files are one scan, and what each shows.

Known are patient folders and flat folders with the contrast at the end of the file's name (BraTS 2017 to 2024, IXI,
UPENN-GBM, ...), BIDS, the Medical Segmentation Decathlon and nnU-Net (dataset.json), and patient folders of colour TIFF
slices with masks (kaggle_3m). Files alone are listed here; no image is read.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.entries import Entry, Source, decathlon_entries, named_volumes, tiff_stacks, walk
from uad.data.reading.naming import BRATS_CHANNELS, LABEL, PART_FOLDERS, channel_order, endings_of, names_a_part
from uad.data.reading.patients import patient_of_folders, patient_of_scan
from uad.data.reading.volumes import dicom_patient, volume_stem
from uad.errors import InputError, Problem, input_error

EXPECTED = (
    "patient folders such as BraTS20_Training_001/BraTS20_Training_001_{t1,t1ce,t2,flair,seg}.nii.gz, a flat folder of "
    "<scan>_<contrast>.nii.gz, BIDS, or a folder with dataset.json"
)
PATIENT_FOLDER = re.compile(r"BraTS(20_Training_\d+|2021_\d+|-[A-Za-z]+(-RT)?-\d+-\d+)")


class Scan(NamedTuple):
    """One examination of one patient. files: channel, or LABEL, -> source; patient: by the name of a release or a
    session, or by the folders, None where neither says it.
    """

    name: str
    where: Path
    files: dict[str, Source]
    patient: str | None = None

    @property
    def paths(self) -> set[Path]:
        """All its files, and folders of DICOM series."""
        return {path for source in self.files.values() for path in source.paths}


def fingerprint(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Bytes and time (in ns) of files, and of those in folders, by their paths: replaced files are noticed."""
    inside = [file for path in paths for file in (path.iterdir() if path.is_dir() else (path,))]
    return {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(inside)}


class Found(NamedTuple):
    """scans: sorted by name; channels: in the order in which they are stored; foreign: how many files are no volume;
    files: all that lie there.
    """

    scans: list[Scan]
    channels: tuple[str, ...]
    foreign: int
    files: Sequence[Path] = ()


def find_scans(
    data_dir: Path, channels: Sequence[str] | None = None, labelled: bool = True, without: Path | None = None
) -> Found:
    """All scans below a folder.

    channels: which, in this order, as `flair` or, where the file's name has another ending, `flair=ENDING`; None: the
    four of BraTS where folders are named so, else every contrast that is there. labelled: a scan has a segmentation;
    without: a folder that is left out. Raises InputError with every scan that misses a volume or has one twice, and for
    folders that cannot be read.
    """
    if not data_dir.is_dir():
        found = "a file" if data_dir.exists() else "no such folder"
        raise input_error(data_dir, found, EXPECTED, "correct --data_dir or unpack the release")
    endings = endings_of(channels)
    wanted = tuple(name for channel in channels or () if (name := channel.partition("=")[0]) != LABEL)
    files = list(walk(data_dir, without and without.resolve()))
    decathlon = [path for path in files if path.name == "dataset.json" and (path.parent / "imagesTr").is_dir()]
    if decathlon:
        entries = [entry for path in decathlon for entry in decathlon_entries(path, labelled)]
    else:
        entries = [*tiff_stacks(files), *named_volumes(files, endings, wanted, data_dir)]
    scans, names, problems = _complete(entries, wanted, labelled, endings)
    scans = _by_dicom([_of_patient(scan, data_dir) for scan in scans])
    problems += [_leads_nowhere(path) for path in files if volume_stem(path.name) and not path.exists()]
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
    return Found(scans, names, foreign, files)


def scans_of_files(files: Sequence[Path], channels: Sequence[str]) -> list[Scan]:
    """The scans that volumes make, by their names: all are needed of each; InputError as find_scans."""
    endings = endings_of(channels)
    entries = list(named_volumes(files, endings, channels, Path()))
    scans, _, problems = _complete(entries, channels, False, endings)
    told = {path for entry in entries if entry.shows is not None for path in entry.source.paths}
    found, expected = "a volume whose name tells no contrast", f"a name that ends in it: {', '.join(channels)}"
    remedy = "state them: --channels NAME=FILE ..."
    problems += [Problem(str(path), found, expected, remedy) for path in files if path not in told]
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    return scans


def _complete(
    entries: Sequence[Entry], wanted: Sequence[str], labelled: bool, endings: Mapping[str, str]
) -> tuple[list[Scan], tuple[str, ...], list[Problem]]:
    """Scans with what is needed of them, the channels' names, and what is missing or there twice."""
    scans, problems = _gather([entry for entry in entries if labelled or entry.shows != LABEL], endings)
    shown = {channel for scan in scans for channel in scan.files}
    names = tuple(wanted) or (BRATS_CHANNELS if any(map(is_brats, scans)) else channel_order(shown))
    needed = (*names, LABEL) if labelled else names
    problems += [problem for scan in scans for problem in _missing(scan, needed)]
    kept = [scan._replace(files={name: scan.files[name] for name in needed if name in scan.files}) for scan in scans]
    return sorted(kept), names, problems


def _of_patient(scan: Scan, root: Path) -> Scan:
    """The scan with the patient that its name or, where that is no release's, its folders tell."""
    if (by_name := patient_of_scan(scan.name)) != scan.name:
        return scan._replace(patient=by_name)
    below = scan.where.relative_to(root).parts if scan.where.is_relative_to(root) else ()
    folders = [folder for folder in below if folder.lower() not in PART_FOLDERS]
    return scan._replace(patient=patient_of_folders(folders) or scan.patient)


def _by_dicom(scans: Sequence[Scan]) -> list[Scan]:
    """The scans with the patients that DICOM files state, unless these state one for all, as anonymised ones do."""
    series = {scan.name: min(scan.paths) for scan in scans if all(path.is_dir() for path in scan.paths)}
    stated = {}
    for name, folder in series.items():
        with suppress(InputError):  # what cannot be read is said with all that is wrong
            stated[name] = dicom_patient(folder)
    if len(set(stated.values())) < 2:
        return list(scans)
    return [scan._replace(patient=stated.get(scan.name) or scan.patient) for scan in scans]


def _leads_nowhere(path: Path) -> Problem:
    found = "a symbolic link that leads nowhere or to itself"
    return Problem(str(path), found, "a volume", "restore what it leads to, or remove it")


def _gather(entries: Sequence[Entry], endings: Mapping[str, str]) -> tuple[list[Scan], list[Problem]]:
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
        problems += _torn(scan, found, endings) or _repeated(scan, found)
        where = found[0].source.paths[0].parent
        scans.append(Scan(scan, where, {entry.shows: entry.source for entry in found}, found[0].patient))
    return scans, problems


def _repeated(scan: str, found: Sequence[Entry]) -> list[Problem]:
    """Volumes of a scan that show the same."""
    problems = []
    for shows, count in Counter(entry.shows for entry in found).items():
        if count > 1:
            where = ", ".join(str(entry.source.paths[0]) for entry in found if entry.shows == shows)
            remedy = "remove the copies, rename files of different scans, or choose by --channels NAME=ENDING"
            problems.append(Problem(where, f"{count} {shows} volumes of {scan}", "one a scan", remedy))
    return problems


def _torn(scan: str, found: Sequence[Entry], endings: Mapping[str, str]) -> list[Problem]:
    """Files of one name in folders that are not named by what they hold may be of different patients."""
    if scan.startswith("sub-"):  # BIDS names say whose a file is
        return []
    folders = sorted({entry.source.paths[0].absolute().parent for entry in found})
    for folder in folders[1:]:
        parts, first = folder.parts, folders[0].parts
        depth = next(
            (i for i, (a, b) in enumerate(zip(parts, first, strict=False)) if a != b), min(len(parts), len(first))
        )
        differing = [each[depth] for each in (parts, first) if len(each) > depth]
        if not any(names_a_part(name, endings) or volume_stem(name) for name in differing):
            where = ", ".join(str(entry.source.paths[0]) for entry in found)
            remedy = "put the files of a scan into one folder, and give scans different names"
            return [Problem(where, f"files called {scan} in different folders", "one folder a scan", remedy)]
    return []


def _missing(scan: Scan, needed: Sequence[str]) -> Iterator[Problem]:
    for shows in needed:
        if shows in scan.files:
            continue
        there = ", ".join(scan.files)
        if shows == LABEL:
            expected = f"{scan.name}_seg.nii.gz, or another of the known endings"
            remedy = (
                "add it, state its ending by --channels seg=ENDING, or move the scan elsewhere; --no_labels prepares "
                "scans without, --healthy those of healthy people"
            )
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
