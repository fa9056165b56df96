"""Configurations: a folder belongs to one, and what is stated beside a checkpoint must agree with its own."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from uad.errors import InputError, Problem
from uad.files import read_json

# Settings that earlier versions did not have, each with the value that stands for what they did.
BEFORE = {"match_contrast": False}


def check_configuration(path: Path, configuration: dict) -> None:
    """Compare with the configuration that the folder of `path` was begun with, if any.

    Raises InputError that names every setting in which they differ.
    """
    if not path.is_file():
        return
    there = BEFORE | read_json(path)
    problems = [
        Problem(
            f"--{key}",
            f"{value!r}",
            f"{there.get(key)!r}, with which {path.parent} was begun ({path.name})",
            "choose another --out, or remove the folder",
        )
        for key, value in configuration.items()
        if there.get(key) != value
    ]
    if problems:
        raise InputError(problems)


def check_values(checks: Iterable[tuple[str, object, str, bool]]) -> None:
    """Raises InputError for all (flag, value, what is expected, whether the value is right) that are wrong."""
    problems = [
        Problem(flag, str(value), expected, "correct the flag") for flag, value, expected, right in checks if not right
    ]
    if problems:
        raise InputError(problems)


def check_given(given: Mapping, config: Mapping, source) -> None:
    """An InputError for every setting given that contradicts the configuration of a checkpoint, with both values.

    Of a data set only the number of channels counts, which it states: `chexpert` may stand for any.
    """
    problems = []
    for name, value in given.items():
        if name == "dataset":
            continue
        saved = config.get(name, value)
        same = tuple(value) == tuple(saved) if isinstance(saved, (list, tuple)) else value == saved
        if not same:
            problems.append(
                Problem(
                    f"--{name}",
                    f"{value}, while the checkpoint has {saved}",
                    f"the configuration of {source}",
                    f"leave --{name} out, or name another checkpoint",
                )
            )
    if problems:
        raise InputError(problems)


def without_removed(saved: Mapping, removed: Mapping) -> dict:
    """The settings of a run of an earlier version without those that are no settings any more.

    removed: their names, each with the value that stands for what this version does. Raises InputError for another.
    """
    problems = [
        Problem(
            f"--{name}",
            f"{saved[name]!r} in the run's checkpoint",
            f"{value!r}: this version has no such flag",
            "choose another --log_dir, or continue with the version that began the run",
        )
        for name, value in removed.items()
        if saved.get(name, value) != value
    ]
    if problems:
        raise InputError(problems)
    return {name: value for name, value in saved.items() if name not in removed}
