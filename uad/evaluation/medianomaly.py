"""The protocol of MedIAnomaly (Cai et al., Medical Image Analysis 2025): image AUC and AP of the map's mean, and of the
pixels of all images AUC, AP and the best Dice over about 200 quantiles of their scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.exact import Distinct, OrderStatistics, above, chosen_keys, distinct, passed, upper_bits
from uad.evaluation.published import Published, Truth, load, maps_in_words, number, separations, sweep
from uad.evaluation.study import MASKS, Study

QUANTILES = 200
COLUMNS = {
    "image_auc": "AUC",
    "image_ap": "AP",
    "pixel_auc": "PixAUC",
    "pixel_ap": "PixAP",
    "best_dice": "BestDice (upper bound)",
    "best_threshold": "its threshold",
}
DEFINITION = {
    "masks": MASKS,
    "image score": "mean of the map",
    "thresholds": "the best Dice chooses among 200 quantiles of all scores by the test labels",
}


@dataclass(frozen=True)
class _First:
    """The first pass over one image and row; uppers: see exact.upper_bits, none without a mask."""

    mean: float
    lesion: Distinct
    uppers: tuple[np.ndarray, np.ndarray]


def evaluate(study: Study, healthy: Study | None, mapper: Callable = map) -> Published:
    """Score every row of the study on its images and the healthy ones, in two passes."""
    counted, means, held = [], [], []
    orders = {row.name: OrderStatistics() for row in study.rows}
    for lesion_pixels, row in sweep(_first, study, healthy, mapper):
        counted.append(lesion_pixels)
        means.append({name: found.mean for name, found in row.items()})
        held.append({name: found.lesion for name, found in row.items()})
        for name, found in row.items():
            orders[name].count(*found.uppers)
    truth, against = Truth.of(counted, study), separations(held)
    uppers = {name: order.ask(_ranks(order.size)) for name, order in orders.items()}
    lesions = {name: each.lesion.values for name, each in against.items()}
    for found in sweep(partial(_second, lesions=lesions, uppers=uppers), study, healthy, mapper):
        for name, (places, keys) in found.items():
            against[name].add(*places)
            orders[name].add(*keys)
    reason = truth.pixel_reason()
    numbers = {}
    for name, separation in against.items():
        auc, ap = truth.image_level([row[name] for row in means])
        dice, threshold = (
            (Estimate(None, reason=reason),) * 2 if reason else _best_dice(separation.lesion, orders[name])
        )
        numbers[name] = {
            "image_auc": auc,
            "image_ap": ap,
            "pixel_auc": number(separation.auroc(), reason),
            "pixel_ap": number(separation.average_precision(), reason),
            "best_dice": dice,
            "best_threshold": threshold,
        }
    definition = {"maps": maps_in_words(study), **DEFINITION}
    return Published("medianomaly", COLUMNS, numbers, (study.rows[0].name,), definition, truth.counts())


def _ranks(size: int) -> np.ndarray:
    """Every (size // QUANTILES)-th rank of `size` scores, from the lowest on."""
    return np.arange(0, size, max(1, size // QUANTILES))


def _best_dice(lesion: Distinct, order: OrderStatistics) -> tuple[Estimate, Estimate]:
    """The highest Dice, 2 TP / (called + P), and the lowest threshold that gives it; what is greater is called."""
    thresholds, called = order.answer()
    dice = 2 * above(lesion, thresholds) / (called + lesion.counts.sum())
    return Estimate(float(dice.max())), Estimate(float(thresholds[dice.argmax()]))


def _first(study: Study, name: str, healthy: bool) -> tuple[int | None, dict[str, _First]]:
    """(lesion pixels, None without a mask; row -> what the first pass takes) of one image."""
    result, lesion = load(study, name, healthy)
    counted = np.full(result.anomaly_map.shape, lesion is not None)
    known = counted if lesion is None else lesion
    rows = {
        row: _First(float(scores.mean(dtype=np.float64)), distinct(scores[known]), upper_bits(scores[counted]))
        for row, scores in study.maps(result).items()
    }
    return None if lesion is None else int(lesion.sum()), rows


def _second(
    study: Study, name: str, healthy: bool, lesions: Mapping[str, np.ndarray], uppers: Mapping[str, np.ndarray]
) -> dict[str, tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Row -> (where its other pixels fall among the lesion scores, its keys among the chosen); empty without a mask."""
    result, lesion = load(study, name, healthy)
    if lesion is None:
        return {}
    return {
        row: (passed(lesions[row], scores[~lesion]), chosen_keys(scores, uppers[row]))
        for row, scores in study.maps(result).items()
    }
