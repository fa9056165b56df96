"""What of a slice is the patient: the body against air, and its interior, from which intensities are standardised."""

import numpy as np
from scipy import ndimage

# Sizes in units of the image's longer side, so that a mask does not depend on the resolution.
CLOSING = 0.05
# The interior is what lies deeper than this share of the greatest depth: without scalp and skull, which are as bright
# as any lesion in some sequences and scanners and dark in others.
INTERIOR_DEPTH = 0.3
BRIGHT_PERCENTILE = 98
# Tissue starts at half of the threshold between dark and bright: dark tissue belongs to the body.
SHARE_OF_THRESHOLD = 0.5
# Scalp and brain may be separate regions; what is smaller than this share of the largest is no part of the body.
LEAST_REGION = 0.1


def body_mask(image: np.ndarray) -> np.ndarray:
    """The body in a slice: (H, W) bool for a (C, H, W) image of non-negative intensities.

    The large connected regions above half of Otsu's threshold in the median over the channels (each scaled to its 98th
    percentile), closed and with their holes filled: noise and ghosts around the head are no part of it, and neither
    fluid, bone nor air inside makes a hole. All of the slice where nothing stands out.
    """
    typical = ndimage.uniform_filter(_typical(image), 3)
    if not typical.max() > 0:
        return np.ones(typical.shape, dtype=bool)
    bright = ndimage.binary_opening(typical > SHARE_OF_THRESHOLD * otsu(typical[typical > 0]))
    regions, count = ndimage.label(bright)
    if count == 0:
        return np.ones(typical.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    large = (sizes >= LEAST_REGION * sizes.max())[regions]
    reach = max(1, round(CLOSING * max(large.shape)))
    # Padding lets the closing reach beyond the border and come back.
    closed = ndimage.binary_closing(np.pad(large, reach), iterations=reach)[reach:-reach, reach:-reach]
    return ndimage.binary_fill_holes(closed | large)


def _typical(image: np.ndarray) -> np.ndarray:
    """Median over the channels that are not constant, each scaled to its 98th percentile and clipped to [0, 1]."""
    scaled = []
    for channel in image.astype(np.float64):
        top = np.percentile(channel, BRIGHT_PERCENTILE)
        top = top if top > 0 else channel.max()
        if top > 0 and channel.max() > channel.min():
            scaled.append((channel / top).clip(0, 1))
    return np.median(scaled, axis=0) if scaled else np.zeros(image.shape[1:])


def otsu(values: np.ndarray, bins: int = 128) -> float:
    """The threshold that separates `values` into two classes of the greatest variance between them (Otsu, 1979); their
    only value, where there is but one.
    """
    counts, edges = np.histogram(values, bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], counts.sum() - np.cumsum(counts)[:-1]
    sums = np.cumsum(counts * centres)[:-1]
    valid = (below > 0) & (above > 0)
    if not valid.any():
        return float(values.flat[0])
    below, above, sums = below[valid], above[valid], sums[valid]
    between = below * above * (sums / below - ((counts * centres).sum() - sums) / above) ** 2
    return float(centres[:-1][valid][np.argmax(between)])


def interior(mask: np.ndarray) -> np.ndarray:
    """The inner part of a body mask (H, W): what lies deeper than INTERIOR_DEPTH of its greatest depth."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return depth > INTERIOR_DEPTH * depth.max()
