"""An evaluation as CSV: a row per image and per patient."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from uad.evaluation.calibration import Calibration
from uad.evaluation.clinical import Clinical
from uad.evaluation.statistics import HEADLINE_RATE
from uad.files import write_csv

NOTHING: Mapping = MappingProxyType({})


def write_rows(folder: Path, clinical: Clinical, calibrations: Mapping[str, Calibration] = NOTHING) -> None:
    """Write per_image.csv and per_patient.csv; calibrations: of the contenders, for p-values, or none."""
    write_table(folder / "per_image.csv", image_rows(clinical, calibrations))
    write_table(folder / "per_patient.csv", patient_rows(clinical))


def write_table(path: Path, rows: Sequence[Mapping]) -> None:
    """Write rows of values as CSV, columns in the order of first appearance; a number that is missing or undefined is
    an empty cell.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [["" if _undefined(value) else value for value in map(row.get, columns)] for row in rows]
    write_csv(path, columns, cells)


def _undefined(value) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def image_rows(clinical: Clinical, calibrations: Mapping[str, Calibration]) -> list[dict]:
    """One row per image and contender: whether it is diseased, if that is known, image score, its p-value where there
    is a calibration, and the image's own metrics, which healthy images have not.
    """
    folders = [("scored", image) for image in clinical.images] + [("healthy", image) for image in clinical.healthy]
    return [
        {
            "image": image.name,
            "patient": image.patient,
            "folder": folder,
            "lesion_pixels": _total([image.lesion_pixels]),
            "diseased": "" if image.diseased is None else int(image.diseased),
            "method": name,
            "image_score": row.image_score,
            **({"p_value": calibrations[name].p_value(row.image_score)} if name in calibrations else {}),
            **row.numbers,
        }
        for folder, image in folders
        for name, row in image.rows.items()
    ]


def patient_rows(clinical: Clinical) -> list[dict]:
    """One row per patient and contender: images, lesion pixels, volumetric Dice."""
    by_patient: dict[str, list] = {}
    for image in clinical.images:
        by_patient.setdefault(image.patient, []).append(image)
    return [
        {
            "patient": patient,
            "method": name,
            "images": len(images),
            "lesion_pixels": _total([image.lesion_pixels for image in images]),
            f"dice_at_fpr{HEADLINE_RATE:.0%}": row.patient_dice.get(patient, math.nan),
        }
        for patient, images in sorted(by_patient.items())
        for name, row in clinical.rows.items()
    ]


def _total(counts: Sequence[int | None]) -> int | str:
    known = [count for count in counts if count is not None]
    return sum(known) if known else ""
