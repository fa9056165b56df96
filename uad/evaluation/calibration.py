"""Trust in a threshold: what healthy images that were neither trained nor tested on say of it.

They give each image a conformal p-value, and pixels their thresholds; healthy test images show which share is called
then. A p-value is valid where calibration and test images are exchangeable: P(p <= a) <= a for a healthy image (Vovk et
al., Algorithmic Learning in a Random World, 2005). Slices of one patient are alike, so intervals are over patients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from uad.errors import input_error
from uad.evaluation.bootstrap import Estimate, estimate, resample_weights
from uad.evaluation.exact import OrderStatistics, chosen_keys, upper_bits
from uad.evaluation.measure import load_healthy
from uad.evaluation.statistics import RATES
from uad.evaluation.study import Study


@dataclass(frozen=True)
class Calibration:
    """One contender. scores: (n,) of the calibration images, ascending; thresholds: by nominal rate, the lowest float32
    score that at most this share of their pixels reaches.
    """

    scores: np.ndarray
    thresholds: dict[float, float]

    def p_value(self, score: float) -> float:
        """(1 + how many calibration scores are not below) / (n + 1), in (0, 1]."""
        return (1 + len(self.scores) - int(np.searchsorted(self.scores, score))) / (len(self.scores) + 1)


@dataclass(frozen=True)
class Realised:
    """Shares of healthy test images, or of their pixels, that are called at each nominal rate."""

    pixels: dict[float, Estimate]
    images: dict[float, Estimate]


def calibrate(study: Study, mapper: Callable = map) -> dict[str, Calibration]:
    """Of every row, in two passes over healthy images. Raises InputError for one with a lesion."""
    scores: dict[str, list[float]] = {row.name: [] for row in study.rows}
    orders = {row.name: OrderStatistics() for row in study.rows}
    for image in study.each(_first, mapper):
        for row, (score, uppers) in image.items():
            scores[row].append(score)
            orders[row].count(*uppers)
    # The score at this rank is the highest that more than the allowed share reaches.
    uppers = {
        row: order.ask([order.size - 1 - int(rate * order.size + 1e-9) for rate in RATES])
        for row, order in orders.items()
    }
    for image in study.each(partial(_second, uppers=uppers), mapper):
        for row, found in image.items():
            orders[row].add(*found)
    return {
        row: Calibration(np.sort(scores[row]), dict(zip(RATES, _next(order.answer()[0]), strict=True)))
        for row, order in orders.items()
    }


def _next(scores: np.ndarray) -> list[float]:
    return np.nextafter(scores, np.float32(np.inf), dtype=np.float32).tolist()


def _first(study: Study, name: str) -> dict[str, tuple[float, tuple[np.ndarray, np.ndarray]]]:
    maps = study.maps(load_healthy(study, name))
    return {row.name: (row.image_score(maps[row.name]), upper_bits(maps[row.name])) for row in study.rows}


def _second(study: Study, name: str, uppers: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    maps = study.maps(load_healthy(study, name))
    return {row: chosen_keys(found, uppers[row]) for row, found in maps.items()}


def realised(
    healthy: Study,
    calibrations: Mapping[str, Calibration],
    n_resamples: int,
    seed: int,
    mapper: Callable = map,
) -> dict[str, Realised]:
    """What is called on healthy test images, of every row, with 95 % intervals by bootstrap over their patients."""
    images = list(healthy.each(partial(_called, calibrations=calibrations), mapper))
    patients, place = np.unique([patient for patient, _, _ in images], return_inverse=True)
    weights = resample_weights([0] * len(patients), n_resamples, seed).astype(np.float64)
    one = "one patient only" if len(patients) < 2 else None

    def share(called: Sequence[float], among: Sequence[float]) -> Estimate:
        sums = [np.bincount(place, each, len(patients)) for each in (called, among)]
        return estimate(sums[0].sum() / sums[1].sum(), (weights @ sums[0]) / (weights @ sums[1]), None, one)

    sizes = [size for _, size, _ in images]
    found = {}
    for row in calibrations:
        pixels = {rate: share([rows[row][0][rate] for _, _, rows in images], sizes) for rate in RATES}
        flagged = {rate: [rows[row][1] <= rate for _, _, rows in images] for rate in RATES}
        found[row] = Realised(pixels, {rate: share(each, np.ones(len(images))) for rate, each in flagged.items()})
    return found


def _called(
    study: Study, name: str, calibrations: Mapping[str, Calibration]
) -> tuple[str, int, dict[str, tuple[dict[float, int], float]]]:
    """(patient, pixels, row -> (pixels called at each rate, p-value)) of a healthy image."""
    result = load_healthy(study, name)
    rows = {}
    maps = study.maps(result)
    for row in study.rows:
        found, known = maps[row.name], calibrations[row.name]
        called = {rate: int((found >= threshold).sum()) for rate, threshold in known.thresholds.items()}
        rows[row.name] = called, known.p_value(row.image_score(found))
    return result.patient, result.anomaly_map.size, rows


def check_apart(calibration: Study, *others: Study) -> None:
    """InputError where a patient of the calibration images is one of the others, too."""
    patients = _patients(calibration)
    for other in others:
        shared = sorted(patients & _patients(other))
        if shared:
            found = f"{len(shared)} patients of {other.folder.folder}, {shared[0]} for instance"
            expected = "healthy images of other patients, who were not trained on"
            raise input_error(calibration.folder.folder, found, expected, "leave these patients out of one of the two")


def _patients(study: Study) -> set[str]:
    return {study.folder.record(name)["patient"] for name in study.names}
