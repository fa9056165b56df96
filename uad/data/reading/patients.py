"""Whose images these are: patients by the names of scans and slices, or by tables that say so."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from uad.errors import InputError, Problem, input_error

TRAIN = "train"
PARTS = (TRAIN, "val")
_SESSION = "(?:session|ses|visit|week|month|timepoint|tp|followup|fu)"
# Scans of releases in which a patient has several: what stands in the group is the patient.
_SCANS = (
    r"(BraTS-[A-Za-z]+(?:-RT)?-\d+)-\d+",  # BraTS 2023 and later: BraTS-GLI-00013-001, BraTS-MEN-RT-0001-1
    r"(sub-[A-Za-z0-9]+)(?:_.*)?",  # BIDS: sub-01_ses-02
    r"(IXI\d+)-.*",  # IXI002-Guys-0828
    r"(OAS\d+_\d+)_MR\d+.*|(OAS\d{5,})_.*",  # OASIS 1 and 2: OAS1_0001_MR1; 3: OAS30001_MR_d0129
    r"(TCGA_[A-Z0-9]{2}_[A-Za-z0-9]{4})_.*",  # kaggle_3m: TCGA_CS_4941_19960909
    r"(UPENN-GBM-\d+)_\d+",  # UPENN-GBM-00001_11
    r"(UCSF-PDGM-\d+)_FU\w+",  # UCSF-PDGM-0045_FU003d
    r"(?:ADNI_)?(\d{3}_S_\d{4,5})_.*",  # ADNI_002_S_0295_MR_...
    r"((?:training|test)\d{2})_\d{2}(?:_.*)?",  # ISBI 2015, multiple sclerosis: training01_02
    r"(brain_scan_.+)_slice",  # MAD-AD and REFLECT: brain_scan_12_slice_40
    # What people write themselves, and LUMIERE: P1_ses-2, patient-7-visit-2, Patient-001_week-044-1
    rf"(?i:(.*\d.*?)[-_]{_SESSION}[-_]?\d+(?:[-_].*)?)",
)
_SCAN_PATTERNS = tuple(re.compile(pattern) for pattern in _SCANS)
_ADNI_PATIENT = re.compile(r"\d{3}_S_\d{4,5}")
_SESSION_FOLDER = re.compile(rf"(?i:{_SESSION}[-_ ]?\d+.*|baseline|(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d.*)")
_OCT_SLICE = re.compile(r"[A-Za-z]+-(\d+)-\d+")
_SLICE = re.compile(r"(.*\d.*)_(?:(?:slice|slc|z)-?)?(\d+)", re.IGNORECASE)
# Words whose digit numbers no scan: T2_0012, fold1_0123, site3_v2_007.
_NO_SCAN = re.compile(r"t[12][a-z]{0,5}|(?:fold|part|batch|split|set|group|class|grade|site|scanner|v|version)\d+")


def patient_of_scan(scan: str) -> str:
    """The patient of a scan by its name: that of a release known here, what stands before a numbered session or visit,
    else the scan's own name.
    """
    for pattern in _SCAN_PATTERNS:
        match = pattern.fullmatch(scan)
        if match:
            return next(group for group in match.groups() if group)
    return scan


def patient_of_folders(folders: Sequence[str]) -> str | None:
    """The patient by the folders that lead to a scan, outermost first: one named by ADNI's number of a patient, else
    the one before the last where that is a session or a date (MU-Glioma-Post: PatientID_0003/Timepoint_1); None where
    it is neither.
    """
    numbered = [folder for folder in folders if _ADNI_PATIENT.fullmatch(folder)]
    if numbered:
        return numbered[0]
    return folders[-2] if len(folders) > 1 and _SESSION_FOLDER.fullmatch(folders[-1]) else None


def scan_and_number(name: str) -> tuple[str, int | None]:
    """The scan that a slice belongs to and its number there, from its name without extension: `<scan>_<digits>` or
    `<scan>_slice<digits>` with a digit in <scan> that is not that of a contrast or of a part of a data set.

    Any other name is taken for a scan with a single slice, without a number: `img_012`, `NORMAL_1000`, `T2_0012` or
    `fold1_0123` count images, not slices of a scan "img", "NORMAL", "T2" or "fold1".
    """
    match = _SLICE.fullmatch(name)
    if not match:
        return name, None
    words = re.split(r"[-_. ]+", match.group(1).lower())
    numbered = any(re.search(r"\d", word) and not _NO_SCAN.fullmatch(word) for word in words)
    return (match.group(1), int(match.group(2))) if numbered else (name, None)


def scan_of(name: str) -> str:
    """The scan that a slice belongs to, see scan_and_number."""
    return scan_and_number(name)[0]


def patient_of(name: str, patients: Mapping[str, str] | None = None) -> str:
    """The patient that a slice belongs to, from its name without extension.

    patients: name of a slice or of a scan -> patient, see read_patients; it goes before what the name tells. Without
    it, OCT2017's `CLASS-<patient>-<number>` names the patient, else the slice's scan does.
    """
    scan = scan_of(name)
    for known in (name, scan):
        if patients and known in patients:
            return patients[known]
    match = _OCT_SLICE.fullmatch(name)
    return match.group(1) if match else patient_of_scan(scan)


def read_patients(path: Path | str) -> dict[str, str]:
    """A table of names (of scans or slices) and their patients: CSV or TSV, two columns, a header `name, patient` or
    none; further columns may stand there where a header names these two.

    Raises InputError with every line that is not so, and for a name with two patients.
    """
    return _read_table(path, "patient")


def read_split(path: Path | str) -> dict[str, str]:
    """A table of patients and their part, `train` or `val`: as read_patients, with the columns `patient, part`."""
    table = _read_table(path, "part", "patient")
    problems = [
        Problem(f"{path}, {patient}", f"the part {part!r}", " or ".join(PARTS), "correct the line")
        for patient, part in table.items()
        if part not in PARTS
    ]
    if problems:
        raise InputError(problems)
    return table


def _read_table(path: Path | str, value: str, key: str = "name") -> dict[str, str]:
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a CSV file with the columns {key}, {value}"
        raise input_error(path, f"unreadable ({error})", expected, "correct the path or the file") from error
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    rows = [
        (number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(lines, delimiter=delimiter), 1)
    ]
    rows = [(number, row) for number, row in rows if any(row)]
    columns = (0, 1)
    if rows and {key, value} <= {cell.lower() for cell in rows[0][1]}:
        header = [cell.lower() for cell in rows.pop(0)[1]]
        columns = (header.index(key), header.index(value))
    return _table(path, rows, columns, (key, value))


def _table(path: Path | str, rows: Iterable[tuple[int, list[str]]], columns: tuple[int, int], names: tuple[str, str]):
    table: dict[str, str] = {}
    problems = []
    for number, row in rows:
        where = f"{path}, line {number}"
        expected = f"{names[0]}, {names[1]}"
        if len(row) <= max(columns) or not all(row[column] for column in columns):
            problems.append(Problem(where, ", ".join(row), expected, "correct the line"))
            continue
        key, value = (row[column] for column in columns)
        if table.setdefault(key, value) != value:
            found = f"{key} is {value}, and {table[key]} further up"
            problems.append(Problem(where, found, f"one {names[1]} for each {names[0]}", "remove one of the two"))
    if not rows:
        problems.append(Problem(str(path), "no line", f"{names[0]}, {names[1]}", "fill the table"))
    if problems:
        raise InputError(problems)
    return table
