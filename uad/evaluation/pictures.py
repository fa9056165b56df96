"""The pictures of an evaluation: each as PNG, for looking, and as PDF, whose lines stay sharp in print."""

from collections.abc import Mapping
from pathlib import Path

from uad.evaluation.clinical import Clinical
from uad.evaluation.figures import dice_figure, pr_figure, remove_figure, roc_figure, save, scores_figure
from uad.evaluation.panels import choose_cases, panels_figure
from uad.evaluation.statistics import HEADLINE_RATE
from uad.evaluation.study import Study

CAPTIONS = {
    "panels.png": "Best, median and worst image by average precision; all maps on one colour scale.",
    "roc.png": "Pixels of the scored images, pooled: sensitivity against false-positive rate.",
    "pr.png": "Pixels of the scored images, pooled: precision against recall.",
    "dice_vs_threshold.png": "Pixels of the scored images, pooled: Dice against the share called positive.",
    "scores.png": "Scores of images as a whole; bars are medians.",
}
WIDE = ("panels.png", "scores.png")


def write_pictures(folder: Path, study: Study, clinical: Clinical) -> list[str]:
    """Write the pictures that can be made; returns their names, of CAPTIONS."""
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
            remove_figure(folder / name)  # of an earlier evaluation with masks
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
