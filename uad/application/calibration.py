"""What is normal: thresholds and scores of healthy images, kept beside the model for every setting of detection."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from uad.data.reading.folder import SliceFolder, evenly_spread
from uad.errors import input_error
from uad.files import read_json, write_json

# Shares of healthy pixels that a mask may mark.
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
# More images, evenly spread, move the thresholds little.
MOST_IMAGES = 512
FOLDER = "calibration"


@dataclass(frozen=True)
class Calibration:
    """healthy: the folder; images: how many were judged; thresholds: by rate as text, the lowest value at which no more
    than this share of the healthy pixels is marked; scores: of the patients, the highest of their slices, ascending.
    """

    healthy: str
    data_hash: str
    images: int
    thresholds: dict[str, float]
    scores: list[float]

    def threshold(self, rate: float) -> float:
        """The value from which a pixel is marked; rate: one of RATES."""
        return self.thresholds[f"{rate:g}"]

    def percentile(self, score: float) -> float:
        """The share of healthy patients, in per cent, whose score is lower."""
        return 100 * float(np.searchsorted(self.scores, score)) / len(self.scores)


def calibration_path(model: Path, settings: Mapping) -> Path:
    """Where the calibration of a model with these settings lies."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    return model / FOLDER / f"{digest}.json"


def stored_calibration(path: Path) -> Calibration | None:
    """What an earlier command measured, None where none did; InputError for a damaged file."""
    if not path.is_file():
        return None
    try:
        return Calibration(**read_json(path))
    except TypeError as error:
        raise input_error(path, f"no calibration ({error})", "one of this version", "delete it") from error


def calibrate(
    slices: SliceFolder, data_hash: str, judge: Callable[[list[int]], tuple[np.ndarray, list[float]]], path: Path
) -> Calibration:
    """Measure on healthy slices and keep it at `path`.

    judge: numbers of slices -> maps (N, S, S) and the slices' scores.
    """
    chosen = evenly_spread(range(len(slices)), MOST_IMAGES)
    maps, scores = judge(chosen)
    by_patient: dict[str, float] = {}
    for number, score in zip(chosen, scores, strict=True):
        patient = slices.patients[number]
        by_patient[patient] = max(score, by_patient.get(patient, score))
    thresholds = thresholds_at(maps.ravel())
    found = Calibration(str(slices.folder), data_hash, len(chosen), thresholds, sorted(by_patient.values()))
    write_json(path, asdict(found))
    return found


def thresholds_at(values: np.ndarray) -> dict[str, float]:
    """By rate: the lowest float32 value such that no more than this share of `values` reaches it."""
    ordered = np.sort(values.astype(np.float32))[::-1]
    allowed = {rate: int(rate * len(ordered) + 1e-9) for rate in RATES}
    return {
        f"{rate:g}": float(np.nextafter(ordered[count], np.float32(np.inf), dtype=np.float32))
        for rate, count in allowed.items()
    }
