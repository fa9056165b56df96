"""The protocol of BMAD (Bao et al., CVPR Workshops 2024): image AUROC, pixel AUROC and PRO up to a false-positive rate
of 0.3.

The benchmark's methods compute PRO in two ways: image by image, the mean over abnormal images, each on the range of its
own map, and once over all images together. Both take 200 even thresholds from the least to the greatest score.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from uad.evaluation.exact import Distinct, above, distinct, passed
from uad.evaluation.published import Published, Truth, load, maps_in_words, number, separations, sweep
from uad.evaluation.regions import region_weights
from uad.evaluation.study import MASKS, Study

STEPS = 200
LIMIT = 0.3
COLUMNS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "pro": "PRO (mean over abnormal images)",
    "pro_pooled": "PRO (all images pooled)",
}
DEFINITION = {
    "masks": MASKS,
    "image score": "maximum of the map",
    "thresholds": "none is reported; PRO integrates over 200 even ones, false-positive rate below 0.3",
}


@dataclass(frozen=True)
class _First:
    """The first pass over one image and row; pro: NaN where undefined."""

    lowest: np.float32
    highest: np.float32
    lesion: Distinct
    pro: float


@dataclass(frozen=True)
class _Curve:
    """At each threshold: false positives (T,), the sum over regions of the part found (T,); negatives, regions."""

    false: np.ndarray
    found: np.ndarray
    negatives: int
    regions: float

    def __add__(self, other: "_Curve") -> "_Curve":
        return _Curve(
            self.false + other.false,
            self.found + other.found,
            self.negatives + other.negatives,
            self.regions + other.regions,
        )

    def pro(self) -> float:
        """Trapezoids of mean overlap over false-positive rate below LIMIT, the rates divided by the greatest one left.

        NaN with fewer than two thresholds below the limit, or where all have rate 0: no area is defined then.
        """
        if not self.negatives or not self.regions:
            return np.nan
        rate, overlap = self.false / self.negatives, self.found / self.regions
        kept = rate < LIMIT
        if kept.sum() < 2 or not rate[kept].any():
            return np.nan
        rate, overlap = rate[kept] / rate[kept].max(), overlap[kept]
        return float(((rate[:-1] - rate[1:]) * (overlap[:-1] + overlap[1:]) / 2).sum())


def even_thresholds(lowest: np.float32, highest: np.float32) -> np.ndarray:
    """STEPS thresholds from the lowest score on, the highest left out; none where all scores are one."""
    return np.arange(lowest, highest, (highest - lowest) / STEPS) if highest > lowest else np.zeros(0)


def evaluate(study: Study, healthy: Study | None, mapper: Callable = map) -> Published:
    """Score every row of the study on its images and the healthy ones, in two passes."""
    images = list(sweep(_first, study, healthy, mapper))
    truth = Truth.of([lesions for lesions, _ in images], study)
    rows = [found for _, found in images]
    against = separations([{name: each.lesion for name, each in row.items()} for row in rows])
    masked = [row for row, lesions in zip(rows, truth.lesions, strict=True) if lesions is not None]
    thresholds = {
        name: even_thresholds(min(row[name].lowest for row in masked), max(row[name].highest for row in masked))
        if masked
        else np.zeros(0)
        for name in against
    }
    lesions = {name: each.lesion.values for name, each in against.items()}
    curves: dict[str, _Curve] = {}
    second = partial(_second, lesions=lesions, thresholds=thresholds)
    for found in sweep(second, study, healthy, mapper):
        for name, (places, curve) in found.items():
            against[name].add(*places)
            curves[name] = curves[name] + curve if name in curves else curve
    reason, undefined = truth.pixel_reason(), 0
    numbers = {}
    for name, separation in against.items():
        each = np.array([row[name].pro for row, count in zip(rows, truth.lesions, strict=True) if count])
        undefined = max(undefined, int(np.isnan(each).sum()))
        defined = each[np.isfinite(each)]
        no_area = reason or "no threshold below the limit"
        numbers[name] = {
            "image_auroc": truth.image_level([float(row[name].highest) for row in rows])[0],
            "pixel_auroc": number(separation.auroc(), reason),
            "pro": number(defined.mean() if len(defined) else np.nan, no_area),
            "pro_pooled": number(curves[name].pro() if name in curves else np.nan, no_area),
        }
    counts = truth.counts() | {"abnormal_without_pro_in_a_row_at_most": undefined}
    definition = {"maps": maps_in_words(study), **DEFINITION}
    return Published("bmad", COLUMNS, numbers, (study.rows[0].name,), definition, counts)


def _first(study: Study, name: str, healthy: bool) -> tuple[int | None, dict[str, _First]]:
    """(lesion pixels, None without a mask; row -> what the first pass takes) of one image."""
    result, lesion = load(study, name, healthy)
    known = np.zeros(result.anomaly_map.shape, bool) if lesion is None else lesion
    rows = {}
    for row, scores in study.maps(result).items():
        lowest, highest = np.float32(scores.min()), np.float32(scores.max())
        pro = _curve(scores, known, even_thresholds(lowest, highest)).pro()
        rows[row] = _First(lowest, highest, distinct(scores[known]), pro)
    return None if lesion is None else int(lesion.sum()), rows


def _second(
    study: Study, name: str, healthy: bool, lesions: Mapping[str, np.ndarray], thresholds: Mapping[str, np.ndarray]
) -> dict[str, tuple[tuple[np.ndarray, np.ndarray], _Curve]]:
    """Row -> (where its other pixels fall among the lesion scores, its curve); empty without a mask."""
    result, lesion = load(study, name, healthy)
    if lesion is None:
        return {}
    return {
        row: (passed(lesions[row], scores[~lesion]), _curve(scores, lesion, thresholds[row]))
        for row, scores in study.maps(result).items()
    }


def _curve(scores: np.ndarray, lesion: np.ndarray, thresholds: np.ndarray) -> _Curve:
    """One image's part of the curve; scores: (H, W), lesion: (H, W) bool."""
    false = above(distinct(scores[~lesion]), thresholds)
    weights = region_weights(lesion)[lesion]
    order = np.argsort(scores[lesion])
    reached = np.append(0.0, np.cumsum(weights[order]))
    place = np.searchsorted(scores[lesion][order], thresholds, side="right")
    return _Curve(false, reached[-1] - reached[place], int((~lesion).sum()), round(reached[-1]))
