"""How close a reconstruction is to its image: PSNR and SSIM for intensities in [0, 1]."""

import math

import numpy as np
from scipy import ndimage

DATA_RANGE = 1.0


def psnr(image: np.ndarray, reconstruction: np.ndarray, region: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB over all channels, -10 log10(mean squared error), data range 1.

    image, reconstruction: (C, H, W); region: (H, W) bool, the pixels that count, all if None.
    NaN for an empty region, infinity for equal images.
    """
    squared = np.square(image.astype(np.float64) - reconstruction)
    squared = squared if region is None else squared[:, region]
    if squared.size == 0:
        return math.nan
    error = squared.mean()
    return 10 * math.log10(DATA_RANGE**2 / error) if error > 0 else math.inf


def ssim_map(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Structural similarity per pixel, mean over channels: (C, H, W) twice -> (H, W), in [-1, 1].

    Wang et al., IEEE TIP 2004: Gaussian window, sigma 1.5, 11 x 11, K1 = 0.01, K2 = 0.03, data range 1;
    borders reflected.
    """
    x, y = image.astype(np.float64), reconstruction.astype(np.float64)
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x**2
    var_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean(0)


def _window(x: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(x, sigma=(0, 1.5, 1.5), radius=(0, 5, 5))
