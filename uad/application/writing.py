"""What detection leaves of one input, on the grid of its file, and the table over all of them.

OUT/anomaly_map/NAME.nii.gz      the map, 0 in slices that do not show the patient
OUT/reconstruction/NAME.nii.gz   the healthy counterpart, normalised as the model sees it; channels on a 4th axis
OUT/mask/NAME_fpr0.01.nii.gz     what reaches the threshold that marks this share of healthy pixels
OUT/montage/NAME.png             a look at it
OUT/report_cases/NAME.js         what the page shows of it, see uad.application.showing
OUT/records/NAME.json            numbers and notices; written last: an input with a record is complete
OUT/summary.csv                  the records as a table
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from uad.application.answer import Answer
from uad.application.inputs import Item
from uad.application.judging import Judged
from uad.application.montage import write_montage
from uad.application.opening import Opened
from uad.application.showing import case_path, write_case
from uad.data.reading.formats import write_slice
from uad.data.reading.volumes import write_volume
from uad.errors import input_error
from uad.files import read_json, write_csv, write_json

COLUMNS = (
    "name", "score", "percentile", "healthy_patients", "anomalous_ml", "anomalous_voxels", "threshold",
    "false_positive_rate", "slice_of_maximum", "voxel_of_maximum", "slices", "judged_slices", "median", "notices",
)  # fmt: skip


def record_path(out: Path, name: str) -> Path:
    """Where the record of an input lies."""
    return out / "records" / f"{name}.json"


def is_written(out: Path, item: Item, threshold: float | None) -> bool:
    """Whether an input is complete: with these files, and masked at this threshold. Where its files are others at the
    same place it is to be judged again.

    Raises InputError where the results are those of another input of its name.
    """
    path = record_path(out, item.name)
    if not path.is_file():
        return False
    record, files = read_json(path), item.files
    if record["files"].keys() != files.keys():
        known = ", ".join(record["files"])
        remedy = "choose another --out, or rename the input"
        raise input_error(item.where, f"{out} holds results called {item.name} of {known}", "a new name", remedy)
    same = record["files"] == files and record.get("channels") == item.shown and record["threshold"] == threshold
    written = [*_maps(out, item.name, record["false_positive_rate"]).values(), montage_path(out, item.name)]
    return same and all(each.is_file() for each in [*written, case_path(out, item.name)])


def montage_path(out: Path, name: str) -> Path:
    """Where the look at an input lies."""
    return out / "montage" / f"{name}.png"


def _maps(out: Path, name: str, rate: float | None) -> dict[str, Path]:
    """Where the volumes of an input lie, by what they show; a mask where there is a rate."""
    mask = {} if rate is None else {"mask": out / "mask" / f"{name}_fpr{rate:g}.nii.gz"}
    return {kind: out / kind / f"{name}.nii.gz" for kind in ("anomaly_map", "reconstruction")} | mask


def write_opened(
    out: Path, item: Item, opened: Opened, judged: Judged, answer: Answer, rate: float, median: int, channel: int
) -> None:
    """Save everything of one input.

    rate, median: with which the answer was found, see answer_of; channel: the one that is shown in the montage.
    """
    marked = None if answer.mask is None else int(answer.mask.sum())
    for kind, path in _maps(out, opened.name, None if marked is None else rate).items():
        values = getattr(answer, kind)
        _write(path, values.astype(np.uint8) if kind == "mask" else values, opened)
    write_montage(montage_path(out, opened.name), opened, judged, answer.threshold, channel)
    write_case(out, opened, answer)
    place = np.unravel_index(int(answer.anomaly_map.argmax()), answer.anomaly_map.shape)
    write_json(
        record_path(out, opened.name),
        {
            "name": opened.name,
            "files": item.files,
            "channels": item.shown,
            "score": answer.score,
            "percentile": answer.percentile,
            "healthy_patients": answer.healthy_patients,
            "anomalous_ml": None if marked is None or opened.voxel_ml is None else marked * opened.voxel_ml,
            "anomalous_voxels": marked,
            "threshold": answer.threshold,
            "false_positive_rate": None if answer.threshold is None else rate,
            "slice_of_maximum": answer.slice_of_maximum,
            "voxel_of_maximum": [int(index) for index in place],
            "slices": opened.shape[2],
            "judged_slices": list(opened.levels),
            "slice_scores": judged.scores,
            "median": median,
            "notices": list(answer.notices),
        },
    )


def _write(path: Path, values: np.ndarray, opened: Opened) -> None:
    """(X, Y, Z) or (X, Y, Z, C) in the file's axes; a slice as (H, W) or (C, H, W)."""
    if opened.voxel_ml is None:
        write_slice(path, values[0] if values.ndim == 3 and len(values) == 1 else values, opened.affine)
    else:
        write_volume(path, values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values, opened.affine)


def read_records(out: Path) -> list[dict]:
    """The records of all inputs that are complete, of former commands too, the highest percentile and score first,
    those without a percentile last. InputError for what is no record.
    """
    records = [_read_record(path) for path in sorted((out / "records").glob("[!.]*.json"))]
    return sorted(records, key=_rank)


def _rank(record: Mapping) -> tuple:
    percentile = -1.0 if record["percentile"] is None else record["percentile"]
    return -percentile, -record["score"], record["name"]


def _read_record(path: Path) -> dict:
    record = {"healthy_patients": None} | read_json(path)  # earlier versions did not count them
    if missing := [column for column in COLUMNS if column not in record]:
        found = f"no {', '.join(missing)}"
        raise input_error(path, found, "a whole record", "delete it and run the same command again: it fills the gap")
    return record


def summary_rows(records: Sequence[Mapping]) -> list[list]:
    """A row of COLUMNS per record; what is undefined is an empty text."""
    rows = []
    for record in records:
        shown = record | {
            "judged_slices": len(record["judged_slices"]),
            "voxel_of_maximum": " ".join(map(str, record["voxel_of_maximum"])),
            "notices": "; ".join(record["notices"]),
        }
        rows.append(["" if shown[column] is None else shown[column] for column in COLUMNS])
    return rows


def write_summary(out: Path, records: Sequence[Mapping]) -> Path:
    """The table of records, see read_records."""
    path = out / "summary.csv"
    write_csv(path, COLUMNS, summary_rows(records))
    return path
