"""Volumes as people hold them to folders of axial slices, split by patient.

Every scan is turned to one orientation by its affine, its slices are brought to one spacing, padded or cropped to a
square around the patient and reduced to the size asked for. A slice is healthy if no tumour lies anywhere in it, also
between the centres of its voxels, and every volume of the scan covers it. Slices of the training
patients that show tumour are not used by any method here; the manifest lists them all the same.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.configuration import check_configuration
from uad.data.preparing.contact_sheet import write_contact_sheet
from uad.data.reading.formats import write_slice
from uad.data.reading.geometry import CANONICAL, Grid, by
from uad.data.reading.layouts import Scan, fingerprint
from uad.data.reading.planes import Framing, Plane, brains_of, plane_of
from uad.data.reading.prepared import MANIFEST, PREPARATION
from uad.data.reading.scans import LoadedScan, header_problems, load_scan, scan_grid
from uad.errors import InputError, Problem, ValueProblem, input_error
from uad.files import read_json, write_csv, write_json

SPLITS = ("train_healthy", "val_healthy", "val_diseased", "unlabelled")
LABELS = "val_diseased_labels"
LEFT_OUT = ("unused_diseased", "unused_little_brain", "unused_not_covered", "unused_tumour_vanishes")
COLUMNS = ("name", "patient", "slice", "split", "tumour_pixels", "brain_pixels", "source")
VOLUME_COLUMNS = (
    "scan", "patient", "shows", "file", "shape", "axes", "spacing_mm", "oblique_degrees",
    "prepared_shape", "prepared_axes", "prepared_spacing_mm", "lesion_values", "notices",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """How to prepare.

    channels: their names in order; health: what is known of it, by a segmentation (seg), by the words of who
    prepares (healthy), or nothing (unknown); framing: spacing and size of the slices; skip_low, skip_high:
    axial slices left out at the bottom and top; every: keep each such slice of the rest; min_brain: least share of a
    slice's pixels that must be the patient; resampling: bring volumes of other grids onto the first channel's.
    """

    channels: tuple[str, ...]
    health: str = "seg"
    framing: Framing = field(default_factory=Framing)
    skip_low: int = 0
    skip_high: int = 0
    every: int = 1
    min_brain: float = 0.02
    resampling: bool = False


class Task(NamedTuple):
    """A scan with its patient, and whether that one is for validation."""

    scan: Scan
    patient: str
    validation: bool


class Prepared(NamedTuple):
    """What came of a scan: rows of manifest.csv (COLUMNS) and volumes.csv (VOLUME_COLUMNS), or what is wrong."""

    scan: str
    rows: list[list]
    volumes: list[list]
    problems: list[Problem]


def check_scan(scan: Scan, choice: Choice) -> list[Problem]:
    """What the headers of a scan tell, see header_problems, and whether it has enough slices."""
    problems = header_problems(scan, choice.resampling)
    least = choice.skip_low + choice.skip_high + 1
    grid = None if problems else scan_grid(scan)
    if grid and grid.shape[2] < least:
        expected = f"at least {least} axial slices, with the {least - 1} that are left out"
        remedy = "lower --skip_low and --skip_high, or remove the scan"
        problems.append(Problem(str(scan.where), f"{grid.shape[2]} axial slices", expected, remedy))
    return problems


def prepare_scan(task: Task, out: Path, choice: Choice) -> Prepared:
    """Write a scan's slices; InputError as load_scan, and for a body larger than the slice."""
    scan, patient, _ = task
    loaded = load_scan(scan, choice.resampling)
    brains, covered = brains_of(loaded.images), loaded.covered()
    try:
        plane = plane_of(brains, loaded.spacing[:2], choice.framing)
    except ValueProblem as error:
        raise error.at(scan.where) from error
    rows = []
    for level in range(choice.skip_low, loaded.images.shape[3] - choice.skip_high, choice.every):
        name = f"{scan.name}_{level:03d}"
        split, tumour, brain, contents = _slice(loaded, brains, covered[level], plane, level, task.validation, choice)
        for folder in (LABELS, *SPLITS):
            path = out / folder / f"{name}.nii.gz"
            if folder in contents:
                write_slice(path, contents[folder], plane.affine(loaded.affine, level))
            else:
                # A scan whose files were replaced since may have had this slice here.
                path.unlink(missing_ok=True)
        rows.append([name, patient, level, split, tumour, brain, str(scan.where)])
    volumes = _volume_rows(task, loaded, plane)
    write_json(_progress_file(out, scan), {"files": _state(scan), "rows": rows, "volumes": volumes})
    return Prepared(scan.name, rows, volumes, [])


def _slice(
    loaded: LoadedScan,
    brains: np.ndarray,
    covered: bool,
    plane: Plane,
    level: int,
    validation: bool,
    choice: Choice,
):
    """Where a slice goes, its tumour and brain pixels, and what is written: folder -> array."""
    image = loaded.images[..., level]
    brain, tumour, mask = int(brains[..., level].sum()), 0, None
    if loaded.label is not None:
        tumour = int(loaded.lesions[..., level].sum())
        mask = plane.mask(loaded.label[..., level]) if tumour else None
    if not covered:
        split = "unused_not_covered"
    elif brain < choice.min_brain * image[0].size:
        split = "unused_little_brain"
    elif choice.health == "unknown":
        split = "unlabelled"
    elif tumour == 0:
        split = "val_healthy" if validation else "train_healthy"
    elif not validation:
        split = "unused_diseased"
    else:
        split = "val_diseased" if mask.any() else "unused_tumour_vanishes"
    contents = {split: plane.squares(image)} if split in SPLITS else {}
    if split == "val_diseased":
        contents[LABELS] = mask
    return split, tumour, brain, contents


def _volume_rows(task: Task, loaded: LoadedScan, plane: Plane) -> list[list]:
    """Rows of volumes.csv: geometry before and after, and in words what was done."""
    size = plane.framing.img_size
    after = Grid((size, size, loaded.images.shape[3]), plane.affine(loaded.affine, 0))
    done = plane.notices(loaded.spacing)
    rows = []
    for note in loaded.notes:
        before = note.grid
        turned = [f"turned from {before.orientation} to {CANONICAL}"] if before.orientation != CANONICAL else []
        moved = ["resampled onto the grid of the scan's first channel"] if note.resampled else []
        rows.append(
            [
                task.scan.name, task.patient, note.shows, note.path, by(before.shape), before.orientation,
                by(before.spacing), f"{before.obliquity:.1f}", by(after.shape), after.orientation, by(after.spacing),
                " ".join(f"{value:g}" for value in note.lesion_values),
                "; ".join([*turned, *moved, *done, *note.notices]),
            ]
        )  # fmt: skip
    return rows


def geometry_notices(rows: Sequence[Sequence]) -> list[str]:
    """What the rows of volumes.csv say in words, with the number of volumes of which it is said."""
    column = VOLUME_COLUMNS.index("notices")
    counts = Counter(notice for row in rows for notice in row[column].split("; ") if notice)
    return [f"{count} of {len(rows)} volumes: {notice}" for notice, count in counts.most_common()]


def values_notice(rows: Sequence[Sequence]) -> str | None:
    """Which values the segmentations of the rows of volumes.csv hold, and in how many patients; None for a single one.

    Releases also number what is no lesion, such as other pathology, and nothing in a file tells.
    """
    patients, column = defaultdict(set), VOLUME_COLUMNS.index("lesion_values")
    for row in rows:
        for value in row[column].split():
            patients[float(value)].add(row[1])
    if len(patients) < 2:
        return None
    held = ", ".join(f"{value:g} in {len(patients[value])} patients" for value in sorted(patients))
    return f"The segmentations hold the values {held}: all count as lesion; write 0 over those that are none"


def _progress_file(out: Path, scan: Scan) -> Path:
    """The scan's rows; written last, so it says that the scan is complete."""
    return out / "patients" / f"{scan.name}.json"


def _state(scan: Scan) -> dict[str, list[int]]:
    """Bytes and times of the scan's files by what they show and by name, so that the release may be moved."""
    return {
        f"{shows}: {Path(path).name}": state
        for shows, source in scan.files.items()
        for path, state in fingerprint(source.paths).items()
    }


def _finished(out: Path, task: Task) -> Prepared | None:
    """What a scan gave that is complete and whose files are still the same, else None; its patient may be another."""
    scan, path = task.scan, _progress_file(out, task.scan)
    there = read_json(path) if path.is_file() else {}
    # Rows of an earlier version lack a column.
    told = all(len(row) == len(VOLUME_COLUMNS) for row in there.get("volumes", [[]]))
    if there.get("files") != _state(scan) or not told:
        return None
    written = [(row[0], row[3]) for row in there["rows"] if row[3] in SPLITS]
    written += [(stem, LABELS) for stem, split in written if split == "val_diseased"]
    complete = all((out / folder / f"{stem}.nii.gz").is_file() for stem, folder in written)
    rows, volumes = ([[row[0], task.patient, *row[2:]] for row in there[kind]] for kind in ("rows", "volumes"))
    return Prepared(scan.name, rows, volumes, []) if complete else None


def _attempt(task: Task, out: Path, choice: Choice) -> Prepared:
    """prepare_scan; errors in the files come back as values, to be reported together."""
    try:
        return prepare_scan(task, out, choice)
    except InputError as error:
        return Prepared(task.scan.name, [], [], error.problems)


def prepare(tasks: Sequence[Task], out: Path, choice: Choice, split: Mapping, workers: int = 1) -> Iterator[Prepared]:
    """Prepare all scans; yields what came of each as it is done.

    split: how the patients were split, for the folder's configuration. Before anything is written, raises InputError
    with all problems of the headers, or all differences to the configuration that `out` was begun with. Complete scans
    are made again only if their files have changed. At the end the tables and the contact sheet are written, or
    InputError raised if any scan had a problem.
    """
    problems = [problem for task in tasks for problem in check_scan(task.scan, choice)]
    if problems:
        raise InputError(problems)
    _claim(out, tasks, choice, {**split, "volume_slices": _common_slices(tasks)})
    done, waiting = [], []
    for task in tasks:
        finished = _finished(out, task)
        if finished is None:
            waiting.append(task)
        else:
            done.append(finished)
            yield finished
    for prepared in _run(waiting, partial(_attempt, out=out, choice=choice), workers):
        done.append(prepared)
        yield prepared
    problems = [problem for prepared in done for problem in prepared.problems]
    if problems:
        raise InputError(sorted(problems, key=lambda problem: problem.where))
    rows = sorted(row for prepared in done for row in prepared.rows)
    write_csv(out / MANIFEST, COLUMNS, rows)
    write_csv(out / "volumes.csv", VOLUME_COLUMNS, sorted(row for each in done for row in each.volumes))
    shown = [(out / row[3] / f"{row[0]}.nii.gz", row[1], row[5]) for row in rows if row[3] in SPLITS]
    if shown:
        write_contact_sheet(out / "contact_sheet.png", shown, choice.channels, out / LABELS)


def _common_slices(tasks: Sequence[Task]) -> int | None:
    """How many axial slices every scan has, None where they differ: only then does a slice's number say where it is."""
    counts = {scan_grid(task.scan).shape[2] for task in tasks}
    return counts.pop() if len(counts) == 1 else None


def _run(tasks: Sequence[Task], attempt, workers: int) -> Iterator[Prepared]:
    """Results of all tasks as they come, in this process or in several."""
    if workers <= 1 or len(tasks) <= 1:
        yield from map(attempt, tasks)
        return
    # Processes are spawned, for the caller may have threads, which a fork does not survive.
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(attempt, task) for task in tasks]):
            yield done.result()


def _claim(out: Path, tasks: Sequence[Task], choice: Choice, split: Mapping) -> None:
    """Record the configuration in `out`; another one that is there already is an error."""
    names = "\n".join(sorted(task.scan.name for task in tasks))
    digest = hashlib.sha256(names.encode()).hexdigest()[:16]
    chosen = asdict(choice)
    chosen |= {"channels": list(choice.channels), **chosen.pop("framing")}
    configuration = {"scans": f"{len(tasks)} scans, digest {digest} of their names", **chosen, **split}
    path = out / PREPARATION
    if not path.is_file():
        used = [folder for folder in SPLITS if (out / folder).is_dir() and any((out / folder).iterdir())]
        if used:
            found = f"{', '.join(used)} with files, but no {PREPARATION}"
            raise input_error(out, found, "a new folder, or one begun by this command", "choose another --out")
        write_json(path, configuration)
    check_configuration(path, configuration)
