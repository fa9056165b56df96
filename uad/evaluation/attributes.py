"""What is known of images beside their maps, a scanner or an age, and the groups of images that it makes."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from uad.data.reading.patients import scan_of
from uad.errors import InputError, Problem, input_error
from uad.evaluation.statistics import quartiles

KEYS = ("name", "patient")
# A column of numbers with more distinct values is shown by quartile.
MOST_VALUES = 8
NOT_STATED = "not stated"


class Attributes:
    """A table of images: .columns, and what each says of an image.

    key: "name", of a slice or a scan, or "patient"; rows: key -> column -> value, as text, empty where not stated.
    """

    def __init__(self, path: Path | str, key: str, rows: Mapping[str, Mapping[str, str]]):
        self.path, self.key, self._rows = Path(path), key, rows
        self.columns = [column for column in next(iter(rows.values())) if column not in KEYS]

    def of(self, name: str, patient: str) -> Mapping[str, str]:
        """Column -> value of an image; empty if the table does not have it."""
        keys = (patient,) if self.key == "patient" else (name, scan_of(name))
        return next((self._rows[key] for key in keys if key in self._rows), {})

    def check_known(self, images: Iterable[tuple[str, str]]) -> None:
        """InputError where the table has none of the images (name, patient)."""
        name = patient = None
        for name, patient in images:
            if self.of(name, patient):
                return
        found = f"none of the images (..., {name}, patient {patient})"
        raise input_error(self.path, found, f"lines of their {self.key}s", "correct the table")

    def groups(self, column: str, images: Sequence[tuple[str, str]]) -> list[str]:
        """The value of a column for each image (name, patient); of many numbers its quartile, with its range. Words
        among them, such as "unknown" or "nan", are values of their own.
        """
        values = [self.of(*image).get(column, "") or NOT_STATED for image in images]
        numbers = {value: number for value in values if (number := _number(value)) is not None}
        if len(numbers) <= MOST_VALUES:
            return values
        stated = np.array([numbers[value] for value in values if value in numbers])
        return [_quartile_of(numbers[value], stated) if value in numbers else value for value in values]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _quartile_of(value: float, stated: np.ndarray) -> str:
    members = quartiles(stated)
    number = members[np.flatnonzero(stated == value)[0]]
    return range_name(stated[members == number])


def range_name(values: np.ndarray) -> str:
    """A group of numbers by its lowest and highest."""
    return f"{values.min():g} to {values.max():g}"


def read_attributes(path: Path | str) -> Attributes:
    """A CSV or TSV file with a header: `name` (of a slice or a scan) or `patient`, and further columns.

    Raises InputError where it cannot be read, lacks such columns, or names an image twice.
    """
    expected = "a CSV file with a header: name or patient, and at least one further column"
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise input_error(path, f"unreadable ({error})", expected, "correct the path or the file") from error
    reader = csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",", restval="")
    header = [column.strip() for column in reader.fieldnames or []]
    reader.fieldnames = header
    key = next((column for column in KEYS if column in header), None)
    if key is None or not set(header) - set(KEYS):
        raise input_error(path, f"the columns {', '.join(header) or 'none'}", expected, "correct the header")
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise input_error(path, f"several columns {twice[0]}", "columns of different names", "rename or remove one")
    return Attributes(path, key, _rows(path, key, reader))


def _rows(path: Path | str, key: str, lines: Iterable[Mapping]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    problems = []
    for number, line in enumerate(lines, 2):
        where = f"{path}, line {number}"
        if None in line:
            problems.append(Problem(where, "more cells than the header", "as many", "correct the line"))
            continue
        row = {column: value.strip() for column, value in line.items()}
        if not row[key]:
            problems.append(Problem(where, f"no {key}", f"a {key}", "correct the line"))
        elif rows.setdefault(row[key], row) is not row:
            problems.append(Problem(where, f"{row[key]} a second time", "one line each", "remove one of the two"))
    if not rows and not problems:
        problems.append(Problem(str(path), "no line", "at least one below the header", "fill the table"))
    if problems:
        raise InputError(problems)
    return rows
