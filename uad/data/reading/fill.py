"""White that registration leaves beside a scan of the retina.

Most scans of OCT2017 were turned and shifted after they were taken, and what lay outside was filled with white: wedges
at the upper or lower border, up to 15 % of the image. To a network they are the brightest tissue there is.
"""

import numpy as np
from scipy import ndimage

# So bright, in units of the full scale, is every pixel of a fill; it takes this share of the image at least.
LEVEL, SHARE = 0.95, 0.002
# How far JPEG or resizing blurs its edge, in units of the image's height.
EDGE = 0.008


def without_fill(image: np.ndarray, full_scale: float) -> np.ndarray:
    """A slice (C, H, W) with 0 where it is filled: white in all channels, from the upper or lower border on.

    Bright layers of the retina reach the left and right border only. full_scale: the intensity of white, or less than
    the slice's greatest where that is not known (see RawSlice). The slice itself where nothing is filled.
    """
    white = (image >= LEVEL * max(full_scale, float(image.max()))).all(axis=0)
    if not (white[0].any() or white[-1].any()):
        return image
    labels, count = ndimage.label(white)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    outer = np.unique(labels[[0, -1]])
    filled = np.isin(labels, [label for label in outer if label and sizes[label] >= SHARE * white.size])
    if not filled.any():
        return image
    edge = ndimage.binary_dilation(filled, iterations=max(1, round(EDGE * len(white))))
    return np.where(edge, 0, image).astype(image.dtype)
