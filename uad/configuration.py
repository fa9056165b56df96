"""A folder that a command fills belongs to one configuration, which lies in it as a JSON file."""

from collections.abc import Iterable
from pathlib import Path

from uad.errors import InputError, Problem
from uad.files import read_json


def check_configuration(path: Path, configuration: dict) -> None:
    """Compare with the configuration that the folder of `path` was begun with, if any.

    Raises InputError that names every setting in which they differ.
    """
    if not path.is_file():
        return
    there = read_json(path)
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
