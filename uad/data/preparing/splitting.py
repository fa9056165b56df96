"""Which patients are for training and which for validation."""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from uad.data.reading.naming import endings_of, named
from uad.data.reading.patients import PARTS, TRAIN
from uad.data.reading.volumes import volume_stem
from uad.errors import InputError, Problem, input_error

# The column of a list of scans, and what such a list is called: IXI_train_fold0.csv, Brats21_test.csv.
SCANS = "img_name"
_LIST = re.compile(r".+_(train|val|test)(?:_fold\d+)?", re.IGNORECASE)


def split_patients(patients: Sequence[str], val_patients: float, seed: int) -> set[str]:
    """The validation patients, a seeded choice: a share of all when below 1, else a number; 0 for none.

    Raises InputError when a share leaves no patient for training or validation, or there are too few.
    """
    names = sorted(set(patients))
    count = round(val_patients)
    if 0 < val_patients < 1:
        count = max(1, round(val_patients * len(names)))
        if count >= len(names):
            found = f"{count} of {len(names)} patients would be for validation"
            remedy = "add patients, or pass --val_patients 0 to have all for training, or their number for validation"
            raise input_error("--val_patients", found, "at least one patient on each side", remedy)
    if count > len(names):
        expected = f"at most their number, {len(names)}"
        raise input_error("--val_patients", f"{count} patients", expected, "choose another number or add patients")
    return {names[i] for i in np.random.default_rng(seed).permutation(len(names))[:count]}


def stated_split(patients: Sequence[str], parts: Mapping[str, str]) -> set[str]:
    """The validation patients by a table of patients and their part; InputError naming all that it lacks."""
    problems = [
        Problem(f"--split, {patient}", "no part", "train or val for every patient", "add a line, or remove the patient")
        for patient in sorted(set(patients) - parts.keys())
    ]
    if problems:
        raise InputError(problems)
    return {patient for patient in patients if parts[patient] == "val"}


def list_scans(path: Path) -> list[str] | None:
    """The scans that a table lists in its column SCANS, as the folders of Behrendt et al. (2025) have them; None of a
    table without this column, or one that cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            if SCANS not in (rows.fieldnames or ()):
                return None
            names = [row[SCANS] for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error):  # what cannot be read is refused where it is read as a table
        return None
    endings = endings_of(None)
    return [named(volume_stem(name) or name, endings).scan for name in names if name]


def listed_parts(lists: Mapping[Path, Sequence[str]]) -> dict[str, str]:
    """The part of every scan, by lists that are named by their part, of which `test` is judged as `val` is.

    Raises InputError for a list whose name says no part, and for scans in lists of both parts.
    """
    parts: dict[str, str] = {}
    problems = []
    for path, scans in lists.items():
        match = _LIST.fullmatch(path.stem)
        if match is None:
            expected = "a name that ends in its part, such as IXI_train_fold0.csv or Brats21_test.csv"
            problems.append(Problem(str(path), f"a list of scans named {path.name}", expected, "rename it"))
            continue
        part = TRAIN if match[1].lower() == TRAIN else PARTS[1]
        both = sorted({scan for scan in scans if parts.get(scan, part) != part})
        problems += [
            Problem(f"{path}, {scan}", "listed for training and for validation", "one part", "pass other lists")
            for scan in both
        ]
        parts |= dict.fromkeys(scans, part)
    if problems:
        raise InputError(problems)
    return parts
