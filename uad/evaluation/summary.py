"""The numbers of an evaluation as plain values, for summary.json."""

import math
from collections.abc import Mapping

from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.study import Study
from uad.evaluation.tables import REPORTED

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
