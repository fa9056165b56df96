"""Bringing the contrast of an image towards that of the training images.

`tissue` gives every image the same median. How far dark and bright tissue lie from it differs between scanners and
patients, and with the level of a slice: a network that knows a narrower contrast takes the tails of a wider one for
lesions. So the landmarks of an image, quantiles of its interior, are moved halfway to their means over the training
images, piecewise linearly (landmarks: Nyul and Udupa, 1999). Halfway, because a large lesion moves them, too.
"""

from typing import TypeAlias

import numpy as np

# Percentiles of the interior.
LANDMARKS = (10, 50, 90)
# The share of the way from an image's own landmarks to those of the training.
SHARE = 0.5

# The landmarks of every channel, (C, len(LANDMARKS)) as plain numbers.
Contrast: TypeAlias = tuple[tuple[float, ...], ...]


def landmarks(values: np.ndarray) -> np.ndarray:
    """Those of an interior's intensities (M,), M at least 1."""
    return np.percentile(values, LANDMARKS)


def matched(values: np.ndarray, own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Intensities (M,) in [0, 1] with their landmarks moved halfway from `own` to those `wanted`, clipped to [0, 1].

    0 stays 0, and what is brighter than the highest landmark moves as far as that: a lesion does not pale by its own
    brightness. A landmark at 0 stays, for there is nothing below it to stretch, and one that is to be at 0, for that is
    of a channel that was never there.
    """
    target = np.where((own > 0) & (wanted > 0), own + SHARE * (wanted - own), own)
    # Equal landmarks, as in an image of few intensities, must not become a step to and fro.
    knots = np.maximum.accumulate(np.concatenate(([0.0], own)))
    moved = np.maximum.accumulate(np.concatenate(([0.0], target)))
    result = np.interp(values, knots, moved)
    above = values > knots[-1]
    result[above] = values[above] + (moved[-1] - knots[-1])
    return result.clip(0, 1)


def mean_contrast(found: list[np.ndarray]) -> Contrast:
    """The mean of the landmarks (C, L) of at least one image.

    Those at 0, as of a channel that is missing, do not count; the mean of none is 0.
    """
    total, there = np.sum(found, axis=0), np.count_nonzero(found, axis=0)
    return tuple(tuple(row) for row in (total / np.maximum(there, 1)).round(4).tolist())
