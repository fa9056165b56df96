"""Exact ranks over all pixels of a data set, whose images pass by twice and are never held together.

Published protocols are defined on the sorted float32 scores of all pixels. Scores of lesion pixels are held, 28 bytes
for each distinct one. All others are counted where they fall between these: enough for AUROC and average precision,
which change at scores of lesion pixels only. Order statistics are found by the upper 20 bits of a score in the first
pass and by the lower 12 bits in the second.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

LOWER_BITS = 12
N_LOWER, N_UPPER = 1 << LOWER_BITS, 1 << (32 - LOWER_BITS)
_SIGN = np.uint32(1 << 31)


class Distinct(NamedTuple):
    """values: (K,) float32, ascending; counts: (K,) int64, how often each occurs."""

    values: np.ndarray
    counts: np.ndarray


def distinct(scores: np.ndarray) -> Distinct:
    """The distinct values among finite scores of any shape, as float32."""
    return Distinct(*np.unique(np.asarray(scores, np.float32), return_counts=True))


def together(parts: Iterable[Distinct]) -> Distinct:
    """The distinct values of all parts, counts added."""
    parts = [distinct(np.zeros(0)), *parts]
    values, places = np.unique(np.concatenate([part.values for part in parts]), return_inverse=True)
    counts = np.zeros(len(values), np.int64)
    np.add.at(counts, places, np.concatenate([part.counts for part in parts]))
    return Distinct(values, counts)


def passed(lesion: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where scores fall among the distinct scores of lesion pixels (K,): (places that occur, how often).

    Place 2k is below the k-th and above the one before it, place 2k + 1 equals it; 2K is above all.
    """
    scores = np.asarray(scores, np.float32).ravel()
    place = np.searchsorted(lesion, scores)
    equal = np.append(lesion, np.float32(np.nan))[place] == scores
    return np.unique(2 * place + equal, return_counts=True)


class Separation:
    """How well the scores of lesion pixels are told from all others."""

    def __init__(self, lesion: Distinct):
        self.lesion = lesion
        self._others = np.zeros(2 * len(lesion.values) + 1, np.int64)

    def add(self, places: np.ndarray, counts: np.ndarray) -> None:
        """Count other pixels, as `passed` gives them."""
        self._others[places] += counts

    def auroc(self) -> float:
        """P(score of a lesion pixel > score of another) + P(equal) / 2; NaN without either."""
        positives, negatives, below = self._totals()
        if not positives or not negatives:
            return np.nan
        wins = self.lesion.counts * (below + 0.5 * self._others[1::2])
        return float(wins.sum() / (positives * negatives))

    def average_precision(self) -> float:
        """Sum over thresholds of (gain in recall) * precision, as scikit-learn's; NaN without either kind."""
        positives, negatives, below = self._totals()
        if not positives or not negatives:
            return np.nan
        reached = positives - np.cumsum(self.lesion.counts) + self.lesion.counts
        precision = reached / (reached + negatives - below)
        return float((self.lesion.counts * precision).sum() / positives)

    def _totals(self) -> tuple[int, int, np.ndarray]:
        """Lesion pixels, other pixels, and how many others are below each distinct lesion score (K,)."""
        below = np.cumsum(self._others)[:-1:2]
        return int(self.lesion.counts.sum()), int(self._others.sum()), below


def above(scores: Distinct, thresholds: np.ndarray) -> np.ndarray:
    """How many scores are greater than each threshold (T,), int64."""
    reached = np.append(0, np.cumsum(scores.counts))
    return reached[-1] - reached[np.searchsorted(scores.values, thresholds, side="right")]


def keys(scores: np.ndarray) -> np.ndarray:
    """uint32 of the same shape, in the order of the finite float32 scores; -0 counts as 0."""
    bits = (np.asarray(scores, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def scores_of(found: np.ndarray) -> np.ndarray:
    """The float32 scores that have these keys."""
    found = np.asarray(found, np.uint32)
    return np.where(found & _SIGN, found ^ _SIGN, ~found).view(np.float32)


def upper_bits(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(upper bits of the keys that occur, how often): what the first pass gives OrderStatistics."""
    return np.unique(keys(scores) >> LOWER_BITS, return_counts=True)


def chosen_keys(scores: np.ndarray, uppers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(keys that occur among those with one of these upper bits, ascending, how often): what the second pass gives."""
    found = keys(scores).ravel()
    return np.unique(found[np.isin(found >> LOWER_BITS, uppers)], return_counts=True)


class OrderStatistics:
    """The scores at given ranks among all pixels, from two passes; 15 MB for 200 ranks.

    size: how many scores were counted in the first pass.
    """

    def __init__(self):
        self._upper = np.zeros(N_UPPER, np.int64)

    @property
    def size(self) -> int:
        return int(self._upper.sum())

    def count(self, uppers: np.ndarray, counts: np.ndarray) -> None:
        """First pass: one image's scores, as `upper_bits` gives them."""
        self._upper[uppers] += counts

    def ask(self, ranks: np.ndarray) -> np.ndarray:
        """Choose ranks (R,), 0 for the lowest score; returns the upper bits to count in the second pass."""
        self._ranks = np.asarray(ranks)
        self._bins = np.searchsorted(np.cumsum(self._upper), self._ranks, side="right")
        self._uppers = np.unique(self._bins)
        self._lower = np.zeros((len(self._uppers), N_LOWER), np.int64)
        return self._uppers

    def add(self, found: np.ndarray, counts: np.ndarray) -> None:
        """Second pass: one image's keys, as `chosen_keys` gives them."""
        self._lower[np.searchsorted(self._uppers, found >> LOWER_BITS), found & (N_LOWER - 1)] += counts

    def answer(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores at the ranks (R,) float32, how many scores are greater than each (R,))."""
        before = np.cumsum(self._upper)[self._bins] - self._upper[self._bins]
        rows = np.cumsum(self._lower, axis=1)[np.searchsorted(self._uppers, self._bins)] + before[:, None]
        lower = (rows <= self._ranks[:, None]).sum(1)
        greater = self.size - np.take_along_axis(rows, lower[:, None], 1)[:, 0]
        return scores_of((self._bins << LOWER_BITS) + lower), greater

    def edge_of_highest(self, share: float) -> np.float32:
        """The highest score, among those whose lower bits are 0, that more than this share of all reaches."""
        reached = np.cumsum(self._upper[::-1])
        lowest = N_UPPER - 1 - int(np.searchsorted(reached, share * self.size, side="right"))
        return scores_of(np.array(lowest << LOWER_BITS))[()]
