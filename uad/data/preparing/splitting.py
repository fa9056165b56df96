"""Which patients are for training and which for validation."""

from collections.abc import Mapping, Sequence

import numpy as np

from uad.errors import InputError, Problem, input_error


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
