"""Writes an evaluation: tables, CSV files, summary.json, pictures, and one page that holds them all."""

import base64
import csv
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from types import MappingProxyType

from uad.evaluation.calibration import Calibration
from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.figures import dice_figure, pr_figure, roc_figure, save, scores_figure
from uad.evaluation.panels import choose_cases, panels_figure
from uad.evaluation.statistics import HEADLINE_RATE
from uad.evaluation.study import Study
from uad.evaluation.tables import REPORTED, Table
from uad.files import write_text

CAPTIONS = {
    "panels.png": "Best, median and worst image by average precision; all maps on one colour scale.",
    "roc.png": "Pixels of the scored images, pooled: sensitivity against false-positive rate.",
    "pr.png": "Pixels of the scored images, pooled: precision against recall.",
    "dice_vs_threshold.png": "Pixels of the scored images, pooled: Dice against the share called positive.",
    "scores.png": "Scores of images as a whole; bars are medians.",
}
NOTHING: Mapping = MappingProxyType({})
WIDE = ("panels.png", "scores.png")
DEFINITIONS = {
    "interval": "95 % percentile bootstrap over patients, stratified by folder",
    "difference": "paired: the same resamples for both",
    "with_healthy": "pixels of the scored images that have masks, and of all healthy images",
    "best_dice": "upper bound: its threshold is chosen on the test labels",
    "at_fpr": "threshold with this false-positive rate over all pixels of the healthy images",
    "aupro": "false-positive rate <= 0.3, normalised, 8-connected regions of slices",
    "patient_dice": "mean over patients of the Dice of all their slices together, at the 1 % threshold",
    "lesion_sensitivity": "8-connected regions of slices; found: at least half of the pixels, at the 1 % threshold",
    "empty_mask": "left out of every mean of Dice and counted",
    "precision": "scores rounded to float16 after scaling by a power of two",
    "tissue": "pixels with an input above 0 in any channel",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #1a1a1a; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-size: 0.82rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 0.3rem 0.7rem; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; } .note, figcaption { color: #555; font-size: 0.85rem; }
figure { margin: 1rem 0; } img { max-width: 100%; } .curves { display: flex; flex-wrap: wrap; gap: 1rem; }
.curves figure { flex: 1 1 24rem; max-width: 30rem; }
td:not(:first-child) { white-space: nowrap; } section { overflow-x: auto; }
"""


def origin(study: Study, healthy: Study | None) -> dict:
    """The run.json of the scored folder and of the folder of healthy images, or None."""
    return {"run": study.folder.run, "healthy_run": healthy.folder.run if healthy else None}


def clinical_summary(clinical: Clinical) -> dict:
    """The clinical protocol's numbers as plain values for JSON."""
    rows = {
        name: {
            "image_score": row.image_score,
            "metrics": {metric: estimate.as_dict() for metric, estimate in row.estimates.items()},
            "thresholds": {key: value if math.isfinite(value) else None for key, value in row.thresholds.items()},
            "lesion_sensitivity": row.lesion_sensitivity,
            "reconstruction": row.closeness,
            "patients_left_out_of_patient_dice": clinical.counts["patients"] - len(row.patient_dice),
        }
        for name, row in clinical.rows.items()
    }
    return {
        "prevalence": clinical.prevalence,
        "prevalence_with_healthy": clinical.prevalence_with_healthy,
        "counts": clinical.counts,
        "definitions": DEFINITIONS,
        "rows": rows,
        "differences": differences(clinical.rows),
    }


def differences(rows: Mapping[str, Row]) -> dict[str, dict]:
    """The first row minus each other one, paired, as plain values: {"first - other": {metric: estimate}}."""
    (first, method), *others = rows.items()
    return {
        f"{first} - {name}": {metric: difference(method, row, metric).as_dict() for metric in REPORTED}
        for name, row in others
    }


def write_csv(path: Path, rows: Sequence[Mapping]) -> None:
    """Write rows of values as CSV, columns in the order of first appearance; an undefined number is an
    empty cell.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if _undefined(value) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def _undefined(value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


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


def write_clinical(
    folder: Path, study: Study, clinical: Clinical, calibrations: Mapping[str, Calibration] = NOTHING
) -> list[str]:
    """Write the CSV files and the pictures; returns the names of the pictures that could be made.

    calibrations: of the contenders, for p-values, or none.
    """
    write_csv(folder / "per_image.csv", image_rows(clinical, calibrations))
    write_csv(folder / "per_patient.csv", patient_rows(clinical))
    method = study.rows[0].name
    cases = choose_cases(clinical, method)
    figures = {
        "panels.png": panels_figure(study, cases, _panel_threshold(clinical.rows[method].thresholds)),
        "roc.png": roc_figure(clinical.rows),
        "pr.png": pr_figure(clinical.rows, clinical.prevalence),
        "dice_vs_threshold.png": dice_figure(clinical.rows),
        "scores.png": scores_figure(clinical),
    }
    for name, figure in figures.items():
        if figure is None:
            (folder / name).unlink(missing_ok=True)  # of an earlier evaluation with masks
        else:
            save(figure, folder / name)
    return [name for name, figure in figures.items() if figure is not None]


def _panel_threshold(thresholds: Mapping[str, float]) -> tuple[float, str] | None:
    key = f"fpr{HEADLINE_RATE:.0%}"
    if key in thresholds:
        return thresholds[key], f"{HEADLINE_RATE:.0%} FPR on healthy"
    if "best_dice" in thresholds:
        return thresholds["best_dice"], "best Dice, upper bound"
    return None


def write_report(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    leading: Sequence[Table],
    pictures: Sequence[str],
    further: Sequence[Table],
) -> None:
    """Write tables.md and report.html, a page that needs no other file: the pictures are inside it, between the leading
    and the further tables.
    """
    write_text(folder / "tables.md", "\n".join(table.markdown() for table in (*leading, *further)))
    head = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    wide = "".join(_inline(folder / name) for name in pictures if name in WIDE)
    curves = "".join(_inline(folder / name) for name in pictures if name not in WIDE)
    before, after = ("".join(table.html() for table in tables) for tables in (leading, further))
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1><table>{head}</table>"
        f"{before}{wide}<div class='curves'>{curves}</div>{after}</body></html>\n"
    )
    write_text(folder / "report.html", page)


def _inline(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = CAPTIONS[path.name]
    image = f"<img alt='{escape(caption)}' src='data:image/png;base64,{data}'>"
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
