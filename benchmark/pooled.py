"""Quality of anomaly maps in two numbers, quick enough to compute for many settings."""

import numpy as np

from uad.evaluation.metrics import N_BINS, average_precision, best_dice, float16_bins, float16_scale, tally


def pooled_quality(maps: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Average precision and best Dice over all pixels together; maps (N, H, W) >= 0, labels of the same shape.

    Raises ValueError where no pixel is positive or none is negative.
    """
    positive = np.asarray(labels, dtype=bool)
    if positive.all() or not positive.any():
        raise ValueError("pixels of both classes are needed")
    bins = float16_bins(maps, float16_scale(float(np.max(maps))))
    tallies = [tally(np.bincount(bins[chosen], minlength=N_BINS)) for chosen in (positive, ~positive)]
    return {"ap": float(average_precision(*tallies)), "best_dice": float(best_dice(*tallies))}
