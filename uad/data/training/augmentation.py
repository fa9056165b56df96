"""Random changes of a training image that another scanner or another healthy patient could have made.

Contrast, gain, shading, sharpness, size and posture differ between scanners and patients far more than within a
training set of a few dozen; networks that have seen such differences take them for healthy.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

# At strength 1; drawn per channel, log-uniform between 1 / x and x.
GAMMA, GAIN = 1.6, 1.15
# Shading: greatest deviation from 1 of a smooth field on a SHADING_GRID x SHADING_GRID grid, shared by the channels.
SHADING, SHADING_GRID = 0.2, 4
# Sharpness: a share of the images is resampled to down to 1 / COARSEST of its size and back.
BLURRED_SHARE, COARSEST = 0.3, 2.0
# Posture: rotation in degrees, change of size, shift in units of the image size.
ROTATION, ZOOM, SHIFT = 8.0, 0.1, 0.04
# The intensity that gamma leaves alone: typical tissue.
PIVOT = 0.4


def augment(image: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """A copy of an image (C, S, S) in [0, 1] with other contrast, gain, shading, sharpness and posture; 0 stays 0.

    strength: 0 changes nothing, 1 is the full range of every change.
    """
    channels, size = len(image), image.shape[-1]
    image = _moved(image, strength, rng)
    gamma = _per_channel(GAMMA ** (strength * rng.uniform(-1, 1, channels)))
    gain = _per_channel(GAIN ** (strength * rng.uniform(-1, 1, channels)))
    grid = rng.uniform(-1, 1, (1, 1, SHADING_GRID, SHADING_GRID)).astype(np.float32)
    shading = F.interpolate(torch.from_numpy(grid), (size, size), mode="bicubic", align_corners=True)[0]
    coarse = max(1, round(size / COARSEST ** (strength * rng.uniform())))
    # In place: new memory for every product would take as long as the products.
    changed = (image / PIVOT).pow_(gamma).mul_(PIVOT).mul_(gain).mul_(1 + strength * SHADING * shading)
    if rng.random() < BLURRED_SHARE:
        changed = _resampled(changed, coarse)
    return changed.clamp_(0, 1).mul_(image > 0)


def _per_channel(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None]


def _resampled(image: torch.Tensor, coarse: int) -> torch.Tensor:
    """Resampled to `coarse` pixels a side, averaging, and back."""
    small = F.interpolate(image[None], (coarse, coarse), mode="bilinear", antialias=True)
    return F.interpolate(small, image.shape[-2:], mode="bilinear")[0]


def _moved(image: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
    """Rotated, scaled and shifted; what comes in from outside repeats the border."""
    angle, log_zoom, *shift = strength * rng.uniform(-1, 1, 4)
    zoom, angle = (1 + ZOOM) ** log_zoom, math.radians(ROTATION * angle)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    # The sampling grid spans [-1, 1]: a shift by the share s of the image is 2 s.
    rows = [[cos, -sin, 2 * SHIFT * shift[0]], [sin, cos, 2 * SHIFT * shift[1]]]
    matrix = torch.tensor([rows], dtype=torch.float32)
    grid = F.affine_grid(matrix, (1, *image.shape), align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]
