"""What of a slice is the patient: the body against air, and its interior, from which intensities are standardised."""

import numpy as np
from scipy import ndimage

# Sizes in units of the image's longer side, so that a mask does not depend on the resolution.
CLOSING = 0.05
# The interior is what lies deeper than this share of the greatest depth: without scalp and skull, which are as bright
# as any lesion in some sequences and scanners and dark in others.
INTERIOR_DEPTH = 0.3
# A rim of so much of the longer side is skull and scalp rather than brain: 8 pixels at 128. Unlike that of the interior
# it is as wide in every slice, so that lesions near the surface of the brain are kept.
RIM = 1 / 16
BRIGHT_PERCENTILE = 98
# In an image that is normalised to [0, 1], what is brighter in any channel shows the body.
AIR = 0.05
# Tissue starts at half of the threshold between dark and bright: dark tissue belongs to the body.
SHARE_OF_THRESHOLD = 0.5
OTSU_BINS = 128
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
    regions, count = ndimage.label(_opened(typical > SHARE_OF_THRESHOLD * otsu(typical[typical > 0])))
    if count == 0:
        return np.ones(typical.shape, dtype=bool)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    large = (sizes >= LEAST_REGION * sizes.max())[regions]
    reach = max(1, round(CLOSING * max(large.shape)))
    body = np.zeros_like(large)
    box = _bounding_box(large)
    # Neither closing nor filling leaves the bounding box.
    body[box] = _filled(_closed(large[box], reach))
    return body


def _typical(image: np.ndarray) -> np.ndarray:
    """Median over the channels that are not constant, each scaled to its 98th percentile and clipped to [0, 1]."""
    scaled = []
    for channel in image:
        highest = channel.max()
        if highest > 0 and highest > channel.min():
            top = _percentile(channel, BRIGHT_PERCENTILE)
            scaled.append(np.minimum(channel.astype(np.float64) / (top if top > 0 else highest), 1))
    return _median(scaled) if scaled else np.zeros(image.shape[1:])


def _percentile(values: np.ndarray, percent: float) -> float:
    """np.percentile of non-negative values in float64, in a third of its time, which also looks for the least and the
    greatest value. Many equal values, such as zeros, make np.partition twenty times slower.
    """
    place = (values.size - 1) * (percent / 100)
    positive = values[values > 0]
    below = int(place) - (values.size - positive.size)
    if not 0 <= below < positive.size - 1:
        return float(np.percentile(values.astype(np.float64), percent))
    parted, share = np.partition(positive, below), place - int(place)
    low, high = float(parted[below]), float(parted[below + 1 :].min())
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def _median(images: list[np.ndarray]) -> np.ndarray:
    """The median over some images, pixel by pixel: np.median sorts every pixel on its own, ten times slower."""
    ordered, middle = list(images), len(images) // 2
    for place in range(middle + 1):
        for other in range(place + 1, len(ordered)):
            lesser = np.minimum(ordered[place], ordered[other])
            ordered[other] = np.maximum(ordered[place], ordered[other])
            ordered[place] = lesser
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _opened(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) without what is too thin for a cross of 3 x 3 pixels; nothing lies beyond the border."""
    eroded = np.logical_and.reduce(_cross(mask))
    return np.logical_or.reduce(_cross(eroded))


def _cross(mask: np.ndarray) -> list[np.ndarray]:
    """The mask and its four neighbours in every pixel's place, False beyond the border."""
    padded = np.pad(mask, 1)
    return [padded[1:-1, 1:-1], padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]


def _closed(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask (H, W), not empty, closed with the cross of 3 x 3 pixels, `reach` times dilated and as often eroded.

    So many crosses reach as far as the city-block distance. Padding lets the closing go beyond the border and back.
    """
    padded = np.pad(mask, reach)
    dilated = ndimage.distance_transform_cdt(~padded, "taxicab") <= reach
    return (ndimage.distance_transform_cdt(dilated, "taxicab") > reach)[reach:-reach, reach:-reach]


def _filled(mask: np.ndarray) -> np.ndarray:
    """A mask (H, W) with its holes: with all that is not connected to what lies around it."""
    outside, _ = ndimage.label(np.pad(~mask, 1, constant_values=True))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns that a mask (H, W), not empty, extends over."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def otsu(values: np.ndarray) -> float:
    """The threshold that separates `values` into two classes of the greatest variance between them (Otsu, 1979); their
    only value, where there is but one.
    """
    counts, edges = np.histogram(values, OTSU_BINS)
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
    """The inner part of a body mask (H, W), not empty: what lies deeper than INTERIOR_DEPTH of its greatest depth."""
    depth = _depth(mask)
    return depth > INTERIOR_DEPTH * depth.max()


def without_rim(mask: np.ndarray) -> np.ndarray:
    """A body mask (H, W), not empty, without its outer RIM: where there is a skull, mostly without it and the scalp."""
    return _depth(mask) > RIM * max(mask.shape)


def _depth(mask: np.ndarray) -> np.ndarray:
    """How far each pixel of a mask (H, W), not empty, lies from what is outside of it, in pixels; 0 outside. Beyond the
    border of the image is outside, too."""
    depth = np.zeros(mask.shape)
    box = _bounding_box(mask)
    depth[box] = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1]
    return depth
