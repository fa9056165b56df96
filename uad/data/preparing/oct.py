"""The OCT2017 release (Kermany et al., Cell 2018) to flat folders of slices, split by patient.

The release's own train, test and val folders are pooled, for they do not keep patients apart, and split anew:

- DRUSEN, CNV and DME take all images of these classes: nothing diseased is trained on.
- val_NORMAL takes the healthy images of a seeded choice of healthy patients, and those of every patient who
  also appears in a diseased class (the other eye, or an earlier visit).
- NORMAL, the training folder, takes the healthy images of all other patients, who are in no other folder.

`<folder>_labels` is written where the raw tree holds masks (`OCT2017/<split>_labels/<CLASS>/<name>.png`):
that of the phantoms does, the release does not.
"""

import filecmp
import hashlib
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from uad.configuration import check_configuration
from uad.data.reading.decoding import EXTENSIONS, upright
from uad.data.reading.formats import read_mask
from uad.errors import InputError, Problem, input_error
from uad.files import write_csv, write_json, written_whole

SPLITS = ("train", "test", "val")
HEALTHY = "NORMAL"
DISEASED = ("DRUSEN", "CNV", "DME")
CLASSES = (HEALTHY, *DISEASED)
VALIDATION = "val_NORMAL"
NAME = re.compile(r"(?P<label>[A-Z]+)-(?P<patient>\d+)-\d+")
SUFFIXES = (".jpeg", ".jpg")
# Those of images that the release does not have: a file that ends so is a wrong image, any other no image at all.
OTHER_IMAGES = (*EXTENSIONS, ".bmp", ".gif", ".webp", ".dcm")
FOREIGN = "foreign files (left out)"
CONFIGURATION = "prepare_oct.json"
COLUMNS = ("name", "patient", "class", "source_split", "output_folder", "has_mask")
EXPECTED_LAYOUT = "OCT2017/{train,test,val}/{NORMAL,DRUSEN,CNV,DME}/CLASS-<patient>-<n>.jpeg"


class RawImage(NamedTuple):
    """One file of the release; mask: its mask, or None."""

    path: Path
    name: str
    patient: str
    label: str
    split: str
    mask: Path | None


class Choice(NamedTuple):
    """How the images are chosen and written; one output folder has one choice.

    val_fraction, val_patients: the part or number of the patients in NORMAL alone who go to val_NORMAL.
    img_size: side of the square PNG, or 0 to keep the files as they are. max_per_class: most images of each
    output folder, or None.
    """

    val_fraction: float | None
    val_patients: int | None
    seed: int
    img_size: int
    max_per_class: int | None


def find_release(data_dir: Path) -> Path:
    """The folder that holds `train`: data_dir, or OCT2017 in it (in one archive a space ends that name)."""
    if not data_dir.is_dir():
        raise input_error(data_dir, "no such folder", EXPECTED_LAYOUT, "unpack the release, or correct --data_dir")
    inside = [path for path in sorted(data_dir.iterdir()) if path.name.strip() == "OCT2017"]
    for folder in (data_dir, *inside):
        if (folder / "train").is_dir():
            return folder
    there = ", ".join(sorted(path.name for path in data_dir.iterdir())[:8]) or "nothing"
    raise input_error(data_dir, f"no folder train; it holds {there}", EXPECTED_LAYOUT, "correct --data_dir")


def list_release(release: Path) -> tuple[list[RawImage], list[Path], list[Problem]]:
    """All images of the release, by split and name, the files beside them that are none, and all that is wrong with
    its folders and names.
    """
    images, foreign, problems = [], [], []
    for split in SPLITS:
        for label in CLASSES:
            folder = release / split / label
            entries = sorted(folder.iterdir()) if folder.is_dir() else []
            for path in entries:
                match = NAME.fullmatch(path.stem)
                if match and match["label"] == label and path.suffix.lower() in SUFFIXES and path.is_file():
                    mask = release / f"{split}_labels" / label / f"{path.stem}.png"
                    images.append(
                        RawImage(path, path.stem, match["patient"], label, split, mask if mask.is_file() else None)
                    )
                elif is_foreign(path):
                    foreign.append(path)
                else:
                    expected = f"{label}-<patient number>-<number>.jpeg"
                    problems.append(Problem(str(path), path.name, expected, "rename or remove it"))
    for label in CLASSES:
        if not any(image.label == label for image in images):
            found = f"no image of class {label} in {', '.join(SPLITS)}"
            problems.append(Problem(str(release), found, EXPECTED_LAYOUT, "complete the release"))
        masked = [image.mask is not None for image in images if image.label == label]
        if any(masked) and not all(masked):
            where, found = f"{release}/*_labels/{label}", f"masks for {sum(masked)} of {len(masked)} images"
            problems.append(Problem(where, found, "a mask for all or for none", "complete or remove the masks"))
    return images, foreign, problems


def is_foreign(path: Path) -> bool:
    """Whether an entry of a folder of images is what systems and archives leave (.DS_Store, ._x.jpeg, Thumbs.db,
    __MACOSX, desktop.ini, lists): no image, and no folder that may hold some.
    """
    if path.name.startswith(".") or path.name == "__MACOSX":
        return True
    return not path.name.lower().endswith(OTHER_IMAGES) and not path.is_dir()


def drop_repeated(images: Sequence[RawImage]) -> tuple[list[RawImage], list[Problem]]:
    """One image a name: a file that lies in two splits counts once; other bytes there are an error."""
    kept: dict[str, RawImage] = {}
    problems = []
    for image in images:
        first = kept.setdefault(image.name, image)
        if first is not image and not filecmp.cmp(first.path, image.path, shallow=False):
            found = f"another image than {first.path} under the same name"
            problems.append(Problem(str(image.path), found, "one image a name", "rename or remove one of the two"))
    return list(kept.values()), problems


def seeded_order(items: Sequence[str], seed: int) -> list[str]:
    """The items in an order that depends on the seed and each item alone."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}:{item}".encode()).digest())


def assign_folders(images: Sequence[RawImage], choice: Choice) -> dict[str, list[RawImage]]:
    """Output folder -> its images, by name, after `max_per_class`: patients come in seeded order.

    Raises InputError when no healthy patient would be left for training or for validation.
    """
    diseased = {image.patient for image in images if image.label in DISEASED}
    healthy = {image.patient for image in images if image.label == HEALTHY}
    eligible = seeded_order(healthy - diseased, choice.seed)
    held_out = choice.val_patients
    if held_out is None:
        held_out = max(1, round(choice.val_fraction * len(eligible)))
    if not 0 < held_out < len(eligible):
        raise input_error(
            "--val_patients / --val_fraction",
            f"{held_out} of {len(eligible)} patients who are in {HEALTHY} only would go to {VALIDATION}",
            "at least one patient for validation and one for training",
            "choose another number, or add healthy patients",
        )
    training = set(eligible[held_out:])
    folders = defaultdict(list)
    for image in images:
        healthy_folder = HEALTHY if image.patient in training else VALIDATION
        folders[healthy_folder if image.label == HEALTHY else image.label].append(image)
    return {name: _subset(found, choice) for name, found in folders.items()}


def _subset(images: Sequence[RawImage], choice: Choice) -> list[RawImage]:
    """The first `max_per_class` images with their patients in seeded order; sorted by name."""
    if choice.max_per_class is not None:
        patients = seeded_order({image.patient for image in images}, choice.seed)
        rank = {patient: position for position, patient in enumerate(patients)}
        images = sorted(images, key=lambda image: (rank[image.patient], image.name))[: choice.max_per_class]
    return sorted(images, key=lambda image: image.name)


def targets(image: RawImage, folder: Path, img_size: int) -> tuple[Path, Path]:
    """Where an image and its mask go."""
    name = f"{image.name}.png" if img_size else image.path.name
    return folder / name, folder.with_name(f"{folder.name}_labels") / f"{image.name}.png"


def read_problem(image: RawImage) -> Problem | None:
    """What is wrong with an image or its mask, which are decoded wholly; None if nothing is."""
    try:
        with Image.open(image.path) as file:
            size = upright(file).convert("L").size
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        return Problem(str(image.path), f"unreadable ({error})", "a complete JPEG image", "fetch the file again")
    if image.mask is None:
        return None
    try:
        mask_size = read_mask(image.mask).shape[::-1]
    except InputError as error:
        return error.problems[0]
    if mask_size != size:
        return Problem(str(image.mask), f"{mask_size} pixels", f"the image's {size}", "replace the mask")
    return None


def convert(img_size: int, task: tuple[RawImage, Path]) -> Problem | None:
    """Write one image and its mask to a folder unless they are there as the release has them, or return what is wrong
    with them.
    """
    image, folder = task
    path, mask_path = targets(image, folder, img_size)
    masked = mask_path.exists() if image.mask is None else not _is_made_of(mask_path, image.mask)
    if _is_made_of(path, image.path) and not masked:
        return None
    problem = read_problem(image)
    if problem:
        return problem
    # The image comes last: one that exists is complete.
    path.unlink(missing_ok=True)
    mask_path.unlink(missing_ok=True)
    if image.mask is not None:
        mask = Image.fromarray(read_mask(image.mask) * np.uint8(255))
        with written_whole(mask_path) as temporary:
            (mask.resize((img_size, img_size), Image.Resampling.NEAREST) if img_size else mask).save(temporary)
    if img_size:
        with Image.open(image.path) as file, written_whole(path) as temporary:
            upright(file).convert("L").resize((img_size, img_size), Image.Resampling.BILINEAR).save(temporary)
    else:
        _link_or_copy(image.path, path)
    return None


def _is_made_of(path: Path, source: Path) -> bool:
    """Whether a file is there and was written, or linked, after its source came to be where it is."""
    return path.exists() and (path.samefile(source) or path.stat().st_mtime >= source.stat().st_ctime)


def _link_or_copy(source: Path, path: Path) -> None:
    """The same bytes under another name: a hard link where both lie on one file system, else a copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:
        with written_whole(path) as temporary:
            shutil.copyfile(source, temporary)


def prepare(data_dir: Path, out: Path, choice: Choice, workers: int) -> dict[str, int]:
    """Prepare the release in data_dir into folders below `out`; returns the number of images of each folder, and of
    foreign files under FOREIGN where there are some.

    What an interrupted run has written is kept. Raises InputError with every problem found. Wrong folders
    or names end it before anything is written; unreadable images alone, after all others have been written.
    """
    release = find_release(data_dir)
    listed, foreign, problems = list_release(release)
    images, repeated = drop_repeated(listed)
    problems += repeated
    if problems:
        problems += _run(read_problem, images, workers, "checking")
        raise InputError(problems)
    folders = assign_folders(images, choice)
    # Relative to the output, so that both can be moved together, and however the command spelled it.
    source = os.path.relpath(release.resolve(), out.resolve())
    configuration = {"data_dir": source, **choice._asdict()}
    check_configuration(out / CONFIGURATION, configuration)
    _refuse_strays(out, folders, choice.img_size)
    write_json(out / CONFIGURATION, configuration)
    tasks = [(image, out / name) for name, found in folders.items() for image in found]
    problems = _run(partial(convert, choice.img_size), tasks, workers, "preparing")
    if problems:
        raise InputError(problems)
    write_csv(out / "manifest.csv", COLUMNS, manifest(listed, folders))
    counts = {name: len(folders[name]) for name in (HEALTHY, VALIDATION, *DISEASED)}
    return counts | ({FOREIGN: len(foreign)} if foreign else {})


def _run(task, items: Sequence, workers: int, verb: str) -> list[Problem]:
    """Apply a task to all items in several processes; returns the problems, in the order of the items."""
    # Processes are spawned, for the caller may have threads, which a fork does not survive.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        results = pool.map(task, items, chunksize=16)
        return [problem for problem in tqdm(results, total=len(items), desc=verb, unit="image") if problem]


def _refuse_strays(out: Path, folders: dict[str, list[RawImage]], img_size: int) -> None:
    """Files of another release in the output folders would put patients on both sides of the split."""
    problems = []
    for name in (HEALTHY, VALIDATION, *DISEASED):
        wanted = {targets(image, out / name, img_size)[0] for image in folders[name]}
        there = {path for path in (out / name).glob("*") if not is_foreign(path)}
        problems += [
            Problem(str(path), "an image that this command does not make", "only its own", "remove the folder")
            for path in sorted(there - wanted)
        ]
    if problems:
        raise InputError(problems)


def manifest(listed: Sequence[RawImage], folders: dict[str, list[RawImage]]) -> list[list]:
    """A row (COLUMNS) per file of the release; output_folder is empty for what was left out (repeats, excess)."""
    used = {image.path: name for name, found in folders.items() for image in found}
    return [
        [image.name, image.patient, image.label, image.split, used.get(image.path, ""), int(image.mask is not None)]
        for image in sorted(listed, key=lambda image: (image.name, SPLITS.index(image.split)))
    ]
