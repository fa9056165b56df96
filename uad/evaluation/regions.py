"""Connected regions of a mask (8-connected): their sizes, how much of each is found, and the removal of
specks.
"""

import math

import numpy as np
from scipy import ndimage

EIGHT = np.ones((3, 3), dtype=int)


def region_weights(mask: np.ndarray) -> np.ndarray:
    """(H, W) mask -> (H, W) float64: 1 / size of the pixel's region inside the mask, 0 outside."""
    labels, _ = ndimage.label(mask, structure=EIGHT)
    weights = 1.0 / np.maximum(np.bincount(labels.ravel()), 1)
    weights[0] = 0.0
    return weights[labels]


def remove_small(mask: np.ndarray, max_size: int) -> np.ndarray:
    """The mask (H, W) without its regions of at most `max_size` pixels, bool."""
    labels, _ = ndimage.label(mask, structure=EIGHT)
    keep = np.bincount(labels.ravel()) > max_size
    keep[0] = False
    return keep[labels]


def half_found(mask: np.ndarray, bins: np.ndarray) -> list[tuple[int, int]]:
    """Per region (its size in pixels, the highest threshold at which at least half of it is found).

    mask: (H, W); bins: (H, W), integer scores. A region counts as found at threshold t if that value is >= t.
    """
    labels, count = ndimage.label(mask, structure=EIGHT)
    found = []
    for region in range(1, count + 1):
        scores = np.sort(bins[labels == region])[::-1]
        found.append((len(scores), int(scores[math.ceil(len(scores) / 2) - 1])))
    return found
