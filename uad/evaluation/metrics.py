"""Detection metrics from histograms of scores: AUROC, average precision, Dice, false-positive rates, AUPRO.

Scores are rounded to float16. Counted from zero, its bit pattern is monotone in a value's magnitude: that count, up
for positive and down for negative scores, is the bin number, 63,487 bins in all. Every metric then comes from two
cumulative sums, equals the metric of the float16-rounded scores, ties included, and histograms of images or patients
can be added. Beforehand scores are multiplied by one power of two for the data set, which brings the largest magnitude
to [2^14, 2^15): this is exact, nothing overflows, scores down to 2^-29 of the largest keep float16's 11 significant
bits, and those below about 2^-39 of the largest become ties.

Histograms have shape (..., B) with bins in ascending order of score, so that all resamples of a bootstrap
are one call. Undefined values are NaN; what is shown to people says why.
"""

import math
from typing import NamedTuple

import numpy as np

ZERO_BIN = 0x7BFF  # as many finite magnitudes above 0 as float16 has; their bit patterns are 1..ZERO_BIN
N_BINS = 2 * ZERO_BIN + 1
_SIGN = 0x8000
AUPRO_LIMIT = 0.3


def float16_scale(maximum: float) -> float:
    """The power of two that brings the data set's largest magnitude `maximum` to [2^14, 2^15); 1 if it is 0."""
    if not math.isfinite(maximum) or maximum < 0:
        raise ValueError(f"largest magnitude {maximum}: it must be finite and not negative")
    return math.ldexp(1.0, 15 - math.frexp(maximum)[1]) if maximum > 0 else 1.0


def float16_bins(scores: np.ndarray, scale: float) -> np.ndarray:
    """Bin numbers (uint16, same shape, < N_BINS) of scores. Raises ValueError where none exists."""
    bits = (np.asarray(scores, dtype=np.float64) * scale).astype(np.float16).view(np.uint16)
    magnitudes = bits & ~np.uint16(_SIGN)
    if magnitudes.size and magnitudes.max() > ZERO_BIN:
        raise ValueError("scores must be finite and not above the maximum that the scale was made for")
    return np.where(bits < _SIGN, ZERO_BIN + magnitudes, ZERO_BIN - magnitudes).astype(np.uint16)


def bin_values(bins: np.ndarray, scale: float) -> np.ndarray:
    """The score that each bin stands for, in the units of the original scores (float64)."""
    from_zero = np.asarray(bins).astype(np.int64) - ZERO_BIN
    magnitudes = np.abs(from_zero).astype(np.uint16).view(np.float16).astype(np.float64)
    return np.where(from_zero < 0, -magnitudes, magnitudes) / scale


class Tally(NamedTuple):
    """A histogram prepared for the metrics below, the highest score first.

    counts: (..., B); reached: (..., B), the total of each bin and all higher ones; total: (...).
    A threshold is given as a depth: how many of the highest bins are called positive, 0..B.
    """

    counts: np.ndarray
    reached: np.ndarray
    total: np.ndarray


def tally(histogram: np.ndarray) -> Tally:
    """Prepare a histogram (..., B) with bins in ascending order of score."""
    counts = np.ascontiguousarray(histogram[..., ::-1], dtype=np.float64)
    reached = np.cumsum(counts, axis=-1)
    return Tally(counts, reached, reached[..., -1])


def tallies(bins: np.ndarray, positive: np.ndarray, count: int = N_BINS) -> tuple[Tally, Tally]:
    """Those of the positives and of all others; bins: in 0..count - 1, of the shape of `positive`, which is bool."""
    positives, negatives = (tally(np.bincount(bins[kind], minlength=count)) for kind in (positive, ~positive))
    return positives, negatives


def together(first: Tally, second: Tally) -> Tally:
    """The tally of both histograms added."""
    return Tally(*(one + other for one, other in zip(first, second, strict=True)))


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Division that gives NaN, without a warning, where the denominator is 0."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def auroc(positives: Tally, negatives: Tally) -> np.ndarray:
    """P(score of a positive > score of a negative) + P(equal) / 2; NaN without positives or negatives."""
    lower = negatives.total[..., None] - negatives.reached
    wins = (positives.counts * (lower + 0.5 * negatives.counts)).sum(-1)
    return _ratio(wins, positives.total * negatives.total)


def average_precision(positives: Tally, negatives: Tally) -> np.ndarray:
    """Sum over thresholds of (gain in recall) * precision; NaN without positives or negatives.

    Average precision of positives alone is 1 whatever the scores are: refused, for it says nothing.
    """
    called = np.maximum(positives.reached + negatives.reached, 1)  # whole numbers; 0 only before any score
    gained = (positives.counts * positives.reached / called).sum(-1)
    return np.where(negatives.total > 0, _ratio(gained, positives.total), np.nan)


def dice_curve(positives: Tally, negatives: Tally) -> np.ndarray:
    """Dice, 2 TP / (TP + FP + P), at depths 1..B, (..., B); NaN without positives."""
    total = positives.total[..., None]
    dice = 2 * positives.reached / np.maximum(positives.reached + negatives.reached + total, 1)
    return np.where(total > 0, dice, np.nan)


def best_dice(positives: Tally, negatives: Tally) -> np.ndarray:
    """Largest Dice over all thresholds. It uses the test labels, so it is an upper bound."""
    return dice_curve(positives, negatives).max(-1)


def depth_at_rate(negatives: Tally, rate: float) -> np.ndarray:
    """The largest depth at which at most `rate` of the negatives are called positive, (...); 0 without
    negatives.
    """
    return (_ratio(negatives.reached, negatives.total[..., None]) <= rate).sum(-1)


def count_at(scores: Tally, depth: np.ndarray) -> np.ndarray:
    """How many scores are called positive at `depth` (...)."""
    depth = np.asarray(depth)
    reached = np.take_along_axis(scores.reached, np.maximum(depth - 1, 0)[..., None], axis=-1)[..., 0]
    return np.where(depth > 0, reached, 0)


def share_at(scores: Tally, depth: np.ndarray) -> np.ndarray:
    """Share of the scores called positive at `depth`: sensitivity or false-positive rate. NaN without scores."""
    return _ratio(count_at(scores, depth), scores.total)


def dice_at(positives: Tally, negatives: Tally, depth: np.ndarray) -> np.ndarray:
    """Dice at `depth` (...); NaN without positives."""
    true, false, total = count_at(positives, depth), count_at(negatives, depth), positives.total
    return np.where(total > 0, _ratio(2 * true, true + false + total), np.nan)


def aupro(overlaps: Tally, negatives: Tally) -> np.ndarray:
    """Area under the per-region overlap curve up to a false-positive rate of AUPRO_LIMIT, divided by that:
    in [0, 1].

    overlaps: the positive pixels, each weighted by 1 / size of its 8-connected region, so that the share
    called positive is the mean over regions of the part found (Bergmann et al., CVPR 2019). Trapezoids
    between thresholds; the one that crosses the limit is cut there. NaN without regions or negatives.
    """
    rate, overlap = _curve_from_zero(negatives), _curve_from_zero(overlaps)
    middles = 0.5 * (overlap[..., 1:] + overlap[..., :-1])
    area = (middles * np.diff(np.minimum(rate, AUPRO_LIMIT), axis=-1)).sum(-1)
    right = np.clip((rate <= AUPRO_LIMIT).sum(-1), 1, rate.shape[-1] - 1)[..., None]
    x0, x1 = (np.take_along_axis(rate, i, axis=-1)[..., 0] for i in (right - 1, right))
    y0, y1 = (np.take_along_axis(overlap, i, axis=-1)[..., 0] for i in (right - 1, right))
    crossing = (x0 < AUPRO_LIMIT) & (x1 > AUPRO_LIMIT)
    beyond = (y1 - y0) * _ratio(x1 - AUPRO_LIMIT, x1 - x0)  # how far the curve rises after the limit
    area = area - np.where(crossing, 0.5 * beyond * (AUPRO_LIMIT - x0), 0)
    return np.where((overlaps.total > 0) & (negatives.total > 0), area / AUPRO_LIMIT, np.nan)


def _curve_from_zero(scores: Tally) -> np.ndarray:
    """Share called positive at depths 0..B; zeros where there are no scores."""
    shares = scores.reached / np.where(scores.total > 0, scores.total, 1)[..., None]
    return np.concatenate([np.zeros_like(shares[..., :1]), shares], axis=-1)


def curves(positives: Tally, negatives: Tally) -> dict[str, np.ndarray]:
    """ROC, precision-recall and Dice curves of one data set at depths 1..B.

    "positive_rate" is the share of all pixels that are called positive.
    """
    called = positives.reached + negatives.reached
    return {
        "false_positive_rate": negatives.reached / negatives.total,
        "recall": positives.reached / positives.total,
        "precision": positives.reached / np.maximum(called, 1),
        "positive_rate": called / (positives.total + negatives.total),
        "dice": dice_curve(positives, negatives),
    }
