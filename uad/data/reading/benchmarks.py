"""Layouts of public benchmarks as they are released: which images and masks make a part, and who is healthy.

BMAD (Bao et al. 2024), MVTec AD (Bergmann et al. 2019), OCT2017 (Kermany et al. 2018), MedIAnomaly (Cai et al. 2024),
and the slices of MAD-AD and REFLECT (Beizaee et al. 2025). Names of files and folders, and the tables that come with
them, are read; no image is.
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.decoding import extension_of
from uad.data.reading.groups import (
    PART_FOLDERS,
    PARTS,
    TEST,
    TRAIN,
    VAL,
    Group,
    beside,
    child,
    folder_group,
    has,
    listed_group,
    no_part,
    paired,
    part_folder,
    subfolders,
    visible,
)
from uad.data.reading.listing import folder_entries
from uad.data.reading.naming import LABEL, channel_order
from uad.errors import InputError, input_error

GOOD, UNGOOD, NORMAL, TUMOUR = "good", "ungood", "normal", "tumor"
IMAGES, MASKS = "img", ("label", "anomaly_mask")
TRUTH, ANNOTATION = "ground_truth", "annotation"
OCT_DISEASES = ("cnv", "dme", "drusen")
ISIC, ISIC_PARTS = "ISIC2018_Task3", {TRAIN: "Training", VAL: "Validation", TEST: "Test"}
REFLECT_SLICE = re.compile(r"(brain_scan_.+_slice_\d+)_([A-Za-z0-9]+)")
BRAIN_MASK, SEGMENTATION = "brainmask", "segmentation"


class Layout(NamedTuple):
    """How a release lies on the disk.

    form: what is expected, in words; fits: whether a folder has this form, by the names in it; groups: root, part and
    contrast (None: the only one) -> the classes of the part; contrasts: whether a file shows one of several.
    """

    form: str
    fits: Callable[[Path], bool]
    groups: Callable[[Path, str, str | None], list[Group]]
    contrasts: bool = False


def _fits_bmad(root: Path) -> bool:
    judged = [path for path in subfolders(root) if path.name.lower() in (*PART_FOLDERS[VAL], *PART_FOLDERS[TEST])]
    return has(root, GOOD, inside=TRAIN) and any(has(path, UNGOOD) for path in judged)


def _bmad(root: Path, part: str, contrast: str | None) -> list[Group]:
    found = [beside(part_folder(root, part), (GOOD, UNGOOD))]
    for name, diseased in ((GOOD, False), (UNGOOD, True)):
        folder = child(part_folder(root, part), name)
        if folder is not None:
            images, masks = child(folder, IMAGES), child(folder, *MASKS)
            loose = [each.name for each in visible(folder) if extension_of(each.name) and each.is_file()]
            if images is not None and loose:
                there = f"images in {images.name}/ and beside it, e.g. {loose[0]}"
                raise input_error(folder, there, "images in one of the two places", "remove or move the others")
            found.append(folder_group(folder.name, images or folder, diseased, masks))
            found += [beside(folder, (IMAGES, *MASKS))] if images else []
    return found


def _fits_mvtec(root: Path) -> bool:
    classes = has(root, GOOD, inside=TRAIN) and has(root, GOOD, inside=TEST)
    return classes and (has(root, TRUTH) or not has(root, UNGOOD, inside=TEST))


def _mvtec(root: Path, part: str, contrast: str | None) -> list[Group]:
    truth = child(root, TRUTH) if part == TEST else None
    folders = subfolders(part_folder(root, part))
    classes = [folder.name.lower() for folder in folders]
    groups = [beside(place, classes) for place in (part_folder(root, part), truth) if place]
    for folder in folders:
        diseased = folder.name.lower() != GOOD
        masks = truth and child(truth, folder.name.lower())
        group = folder_group(folder.name, folder, diseased, masks, _mvtec_image)
        # Where others have masks, those of this defect are missing.
        groups.append(group._replace(masks={}) if truth and diseased and masks is None else group)
    return groups


def _mvtec_image(mask: str) -> str:
    return mask.removesuffix("_mask")


def _fits_kermany(root: Path) -> bool:
    return any(
        has(path, NORMAL) and has(path, *OCT_DISEASES) for path in subfolders(root) if path.name.lower() in PARTS
    )


def _kermany(root: Path, part: str, contrast: str | None) -> list[Group]:
    classes, inside = (NORMAL, *OCT_DISEASES), part_folder(root, part)
    folders = [child(inside, name) for name in classes]
    found = [folder_group(folder.name, folder, folder.name.lower() != NORMAL) for folder in folders if folder]
    return [*found, beside(inside, classes)]


def _fits_medianomaly(root: Path) -> bool:
    return (root / "data.json").is_file() and has(root, "images")


def _medianomaly(root: Path, part: str, contrast: str | None) -> list[Group]:
    table = root / "data.json"
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
        parts = {each: _lists(content.get(each, {})) for each in PARTS}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        expected = 'lists of names: {"train": {"0": [...]}, "test": {"0": [...], "1": [...]}}'
        raise _unreadable(table, error, expected) from error
    lists = parts.pop(part)
    if not lists:
        raise no_part(root, part, f"no part {part} in {table.name} (there are {', '.join(content)})")
    if lists.keys() - {"0", "1"}:
        found = f"the lists {', '.join(lists)} of the part {part}"
        raise input_error(table, found, "0, of healthy images, and 1, of diseased ones", "correct the table")
    elsewhere = {name for others in parts.values() for names in others.values() for name in names}
    shared = [name for names in lists.values() for name in names if name in elsewhere]
    if shared:
        found = f"{len(shared)} images of the part {part} in another one, too, e.g. {shared[0]}"
        raise input_error(table, found, "each image in one part", "unpack the release again, or correct the table")
    healthy, diseased = (lists.get(key, []) for key in "01")
    return _by_tables(root / "images", table, healthy, diseased)


def _lists(part: dict) -> dict[str, list[str]]:
    """Label -> names. What is no list, `unlabeled`, has images of both kinds that the benchmark does not use."""
    return {label: [str(name) for name in names] for label, names in part.items() if isinstance(names, list)}


def _fits_medianomaly_brats(root: Path) -> bool:
    return has(root, TRAIN) and has(root, TUMOUR, inside=TEST) and has(root, ANNOTATION, inside=TEST)


def _medianomaly_brats(root: Path, part: str, contrast: str | None) -> list[Group]:
    folder = part_folder(root, part)
    if part != TEST:
        return [folder_group(NORMAL, folder, False)]
    healthy, diseased, annotated = (child(folder, name) for name in (NORMAL, TUMOUR, ANNOTATION))
    tumours, masks = folder_group(TUMOUR, diseased, True), folder_entries(annotated)
    image_of = {stem.replace("flair", LABEL): stem for stem in tumours.images}
    # The mask of no image keeps its own name, under which it is missed.
    named = paired(masks.files, lambda stem: image_of.get(stem, stem))
    tumours = tumours._replace(masks=named, problems=(*tumours.problems, *masks.problems))
    return [*([folder_group(NORMAL, healthy, False)] if healthy else []), tumours]


def _fits_isic(root: Path) -> bool:
    return (root / f"{ISIC}_Training_Input").is_dir()


def _isic(root: Path, part: str, contrast: str | None) -> list[Group]:
    """Naevi are the healthy ones (MedIAnomaly)."""
    stem = f"{ISIC}_{ISIC_PARTS[part]}"
    images, table = root / f"{stem}_Input", root / f"{stem}_GroundTruth" / f"{stem}_GroundTruth.csv"
    if not images.is_dir():
        raise no_part(root, part, f"no folder {images.name}")
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            healthy = {f"{row['image']}.jpg": float(row["NV"]) == 1 for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(table, error, "a CSV file with the columns image and NV") from error
    return _by_tables(
        images, table, *([name for name, is_one in healthy.items() if is_one is kind] for kind in (True, False))
    )


def _by_tables(folder: Path, table: Path, healthy: Sequence[str], diseased: Sequence[str]) -> list[Group]:
    contradictory = sorted(set(healthy) & set(diseased))
    if contradictory:
        found = f"{len(contradictory)} images as healthy and as diseased, e.g. {contradictory[0]}"
        raise input_error(table, found, "each image once", "unpack the release again, or correct the table")
    both = (("healthy", healthy, False), ("diseased", diseased, True))
    return [listed_group(name, folder, names, is_diseased, table) for name, names, is_diseased in both if names]


def _unreadable(table: Path, error: Exception, expected: str) -> InputError:
    return input_error(table, f"unreadable ({type(error).__name__}: {error})", expected, "unpack the release again")


def _fits_reflect(root: Path) -> bool:
    folders = [path for path in subfolders(root) if path.name.lower() in PARTS]
    return any(each.name.startswith("brain_scan_") for folder in folders for each in visible(folder))


def is_brain_mask(stem: str) -> bool:
    """Whether a file of MAD-AD or REFLECT shows where the brain is."""
    return stem.endswith(f"_{BRAIN_MASK}") and REFLECT_SLICE.fullmatch(stem) is not None


def _reflect(root: Path, part: str, contrast: str | None) -> list[Group]:
    folder = part_folder(root, part)
    entries, others = folder_entries(folder), []
    shown: dict[str, dict[str, Path]] = defaultdict(dict)
    for stem, path in entries.files.items():
        match = REFLECT_SLICE.fullmatch(stem)
        if match is None or is_brain_mask(stem):
            others.append(path.name)
        else:
            shown[match[2]][match[1]] = path
    masks = shown.pop(SEGMENTATION, None)
    there = ", ".join(channel_order(shown)) or "none"
    if contrast is None and len(shown) > 1:
        raise input_error("--contrast", f"not given, and {folder} has {there}", "one of them", "pass --contrast")
    if not shown or (contrast is not None and contrast not in shown):
        wanted = f"files brain_scan_<scan>_slice_<number>_{contrast or '<contrast>'}.png"
        raise input_error(folder, f"the contrasts {there}", wanted, "correct --contrast, or unpack the release again")
    images = shown[contrast or next(iter(shown))]
    others += [path.name for other in shown.values() if other is not images for path in other.values()]
    others += [*entries.foreign, *(f"{name}/" for name in entries.subfolders)]
    # Only in the part test masks tell who is diseased; what else there is, is healthy.
    group = Group("", images, masks, None if part == TEST else False, tuple(others))
    return [group._replace(problems=tuple(entries.problems))]


LAYOUTS = {
    "bmad": Layout(
        "train/good, {valid,test}/{good,Ungood}, with img and label or anomaly_mask in these, or the images themselves",
        _fits_bmad,
        _bmad,
    ),
    "mvtec": Layout(
        "train/good, test/{good,<defect>}, ground_truth/<defect>/<name>_mask.png", _fits_mvtec, _mvtec
    ),
    "kermany": Layout("{train,val,test}/{NORMAL,CNV,DME,DRUSEN}", _fits_kermany, _kermany),
    "medianomaly": Layout("images, and data.json with lists of names", _fits_medianomaly, _medianomaly),
    "medianomaly-brats": Layout(
        "train, test/{normal,tumor,annotation}", _fits_medianomaly_brats, _medianomaly_brats
    ),
    "isic2018": Layout(f"{ISIC}_{{Training,Test}}_{{Input,GroundTruth}}", _fits_isic, _isic),
    "reflect": Layout(
        "{train,val,test}/brain_scan_<scan>_slice_<number>_{<contrast>,brainmask,segmentation}.png",
        _fits_reflect,
        _reflect,
        contrasts=True,
    ),
}  # fmt: skip
