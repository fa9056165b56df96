"""Files below a folder -> what each shows of which scan, by the layouts that are known; no image is read."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.decoding import cannot_open
from uad.data.reading.naming import LABEL, endings_of, may_show_tissue, named
from uad.data.reading.volumes import holds_dicom, volume_stem
from uad.errors import InputError, Problem, input_error

TIFF_SLICE = re.compile(r"(.+)_(\d+)\.tiff?", re.IGNORECASE)
TIFF_MASK = re.compile(r"(.+)_(\d+)_mask\.tiff?", re.IGNORECASE)
# kaggle_3m: what red, green and blue hold.
TIFF_CHANNELS = ("t1", "flair", "t1ce")

BRAIN_MASKS = "mask"


# A mask that shows where the head is and not a lesion: p1_brain_mask, T1_bet-mask, sub-1_desc-brain_mask.
_BRAIN_MASK = re.compile(r"(^|[-_.])(brain|bet|head|skull|skullstrip)[-_.]?(mask|msk)$", re.IGNORECASE)
_LABEL_FOLDER = re.compile(r"(labels?|masks?|seg(mentation)?s?|annotations?)(Tr|Ts)?", re.IGNORECASE)


class Source(NamedTuple):
    """Where one channel lies. paths: a volume, a DICOM folder, or slices in their order; component: which channel of a
    file that holds several, None of a file that holds one; channels: how many it must hold, None where its channels
    are known by their names.
    """

    paths: tuple[Path, ...]
    component: int | None = None
    channels: int | None = None


class Entry(NamedTuple):
    """A file and what its name says; shows, patient: None where that is not known."""

    scan: str
    shows: str | None
    source: Source
    patient: str | None = None


def walk(data_dir: Path, without: Path | None) -> Iterator[Path]:
    """Files below a folder, and folders that are one volume; every folder once, however links lead there."""
    seen = {without}
    for place, folders, names in os.walk(data_dir, onerror=_refuse, followlinks=True):
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


def _refuse(error: OSError) -> None:
    raise cannot_open(error.filename, error) from error


def _only_volume(folder: Path) -> Path | None:
    try:
        files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and volume_stem(path.name)]
    except OSError as error:
        raise cannot_open(folder, error) from error
    return files[0] if len(files) == 1 else None


def named_volumes(
    files: Sequence[Path], endings: Mapping[str, str], wanted: Sequence[str], root: Path
) -> Iterator[Entry]:
    """Volumes with their contrast in the name; where no name has one, all are what `wanted` says.

    A name that is the contrast alone (`7/2019/FLAIR.nii.gz`) leaves the folders below `root` to name scan and patient.
    Masks of the brain, see _brain_masks, and segmentations of tissues are left alone.
    """
    entries, bare = [], []
    brains = _brain_masks(files)
    volumes = [
        path
        for path in files
        if path.name[0] != "." and (stem := volume_stem(path.name)) and path.parent not in brains
        and not _BRAIN_MASK.search(stem)
    ]  # fmt: skip
    places = {path.parent for path in files if not volume_stem(path.name)}
    for path in [*volumes, *sorted(place for place in places if holds_dicom(place))]:
        # The folder of `x_flair.nii/y.nii` says what its file shows.
        held = volume_stem(path.parent.name)
        stem = held or volume_stem(path.name) or path.name
        scan, shows = named(stem, endings)
        below = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
        if "derivatives" in below and (shows != LABEL or may_show_tissue(stem, endings)):
            continue
        if scan:
            entries.append(Entry(scan, shows, Source((path,))))
        else:
            bare.append((path.parent.parent if held else path.parent, Entry("", shows, Source((path,)))))
    entries += _named_by_folders(bare)
    entries = _without_tissue(entries, endings)
    if wanted and not any(entry.shows in wanted for entry in entries):
        yield from (entry for entry in entries if entry.shows == LABEL)
        for entry in entries:
            unnamed = entry.shows is None and not _LABEL_FOLDER.fullmatch(entry.source.paths[0].parent.name)
            for component, channel in enumerate(wanted if unnamed else ()):
                parts = {"component": component, "channels": len(wanted)} if len(wanted) > 1 else {"component": None}
                source = entry.source._replace(**parts)
                yield entry._replace(shows=channel, source=source)
        return
    yield from entries


def _brain_masks(files: Sequence[Path]) -> set[Path]:
    """Folders `mask` that show the brain, as those of Behrendt et al. (2025): beside `seg`, or in a data set in
    `Train`, where everybody is healthy.
    """
    beside = {path.parent.with_name(BRAIN_MASKS) for path in files if path.parent.name == LABEL}
    folders = {path.parent for path in files if path.parent.name == BRAIN_MASKS}
    return beside | {folder for folder in folders if folder.absolute().parents[1].name == "Train"}


def _without_tissue(entries: Sequence[Entry], endings: Mapping[str, str]) -> list[Entry]:
    """Entries without the segmentations that may show tissues of scans that have another label."""
    tissue = {e for e in entries if may_show_tissue(volume_stem(e.source.paths[0].name) or "", endings)}
    labelled = {entry.scan for entry in entries if entry.shows == LABEL and entry not in tissue}
    return [entry for entry in entries if entry not in tissue or entry.scan not in labelled]


def _named_by_folders(bare: Sequence[tuple[Path, Entry]]) -> Iterator[Entry]:
    """Entries named by their folders, from where these differ: `7/2019` is the scan 7_2019 of patient 7."""
    folders = [folder.resolve() for folder, _ in bare]
    if not folders:
        return
    common = Path(os.path.commonpath([str(folder) for folder in folders]))
    for folder, (_, entry) in zip(folders, bare, strict=True):
        parts = folder.relative_to(common).parts or (folder.name,)
        yield entry._replace(scan="_".join(parts), patient=parts[0] if len(parts) > 1 else None)


def tiff_stacks(files: Sequence[Path]) -> Iterator[Entry]:
    """Patients of kaggle_3m: folders in which a TIFF slice has a mask beside it; InputError where one has none."""
    masks, slices = defaultdict(dict), defaultdict(dict)
    for path in files:
        for pattern, found in ((TIFF_MASK, masks), (TIFF_SLICE, slices)):
            match = pattern.fullmatch(path.name)
            if match and path.name[0] != ".":
                found[path.parent, match[1]][int(match[2])] = path
    problems = []
    for key in slices.keys() & masks.keys():
        for here, there, what in ((slices, masks, "slice without a mask"), (masks, slices, "mask without a slice")):
            for number in sorted(here[key].keys() - there[key].keys()):
                problems.append(Problem(str(here[key][number]), f"a {what}", "one of each number", "complete the two"))
    if problems:
        raise InputError(problems)
    for key in sorted(slices.keys() & masks.keys()):
        paths = tuple(slices[key][number] for number in sorted(slices[key]))
        for component, channel in enumerate(TIFF_CHANNELS):
            yield Entry(key[1], channel, Source(paths, component))
        yield Entry(key[1], LABEL, Source(tuple(masks[key][number] for number in sorted(masks[key]))))


def decathlon_entries(description: Path, labelled: bool) -> Iterator[Entry]:
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
                # nnU-Net lists X.nii.gz for the files X_0000.nii.gz, X_0001.nii.gz, ...
                apart = (root / image).with_name(f"{scan}_{component:04d}{Path(image).name[len(scan) :]}")
                parts = component if len(channels) > 1 else None
                yield Entry(scan, channel, Source((apart,)) if apart.exists() else Source((root / image,), parts))
            if label and labelled:
                yield Entry(scan, LABEL, Source((root / label,)))
        return
    for path in sorted((root / "imagesTr").iterdir()):
        match = re.fullmatch(r"(.+)_(\d{4})", volume_stem(path.name) or "")
        if match and path.name[0] != "." and int(match[2]) < len(channels):
            yield Entry(match[1], channels[int(match[2])], Source((path,)))
    for path in sorted((root / "labelsTr").glob("*")) if labelled else ():
        if path.name[0] != "." and volume_stem(path.name):
            yield Entry(volume_stem(path.name), LABEL, Source((path,)))
