"""Random changes of a training image that another scanner or another healthy patient could have made.

Contrast, gain, shading, sharpness, size and posture differ between scanners and patients far more than within a
training set of a few dozen; networks that have seen such differences take them for healthy. What is to be changed is
drawn on the host, image by image; batches are changed on the device where they are.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from uad.data.training.fields import interpolated
from uad.data.training.parameters import in_pieces, on_device

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


class Augmentation(NamedTuple):
    """How an image is changed, or with a first dimension more, every image of a batch; on the CPU.

    matrix (2, 3) float32: from the new image's coordinates to the old one's, both in [-1, 1]; gamma, gain (C,) float32;
    shading (4, 4) float32: deviation from 1 of the factor that is interpolated between these points; coarse () int64:
    pixels a side to which the image is resampled and back, 0 for not at all.
    """

    matrix: Tensor
    gamma: Tensor
    gain: Tensor
    shading: Tensor
    coarse: Tensor


def drawn_augmentation(channels: int, size: int, strength: float, rng: np.random.Generator) -> Augmentation:
    """A random change of an image of so many channels and pixels a side.

    strength: 0 changes nothing, 1 is the full range of every change.
    """
    matrix = _motion(strength * rng.uniform(-1, 1, 4))
    gamma = GAMMA ** (strength * rng.uniform(-1, 1, channels))
    gain = GAIN ** (strength * rng.uniform(-1, 1, channels))
    shading = strength * SHADING * rng.uniform(-1, 1, (SHADING_GRID, SHADING_GRID))
    coarse = max(1, round(size / COARSEST ** (strength * rng.uniform())))
    blurred = rng.random() < BLURRED_SHARE
    smooth = (torch.from_numpy(values.astype(np.float32)) for values in (matrix, gamma, gain, shading))
    return Augmentation(*smooth, torch.tensor(coarse if blurred else 0))


def _motion(amounts: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) of rotation, zoom and two shifts, each given in -1..1 of its greatest amount."""
    angle, log_zoom, *shift = amounts
    zoom, angle = (1 + ZOOM) ** log_zoom, math.radians(ROTATION * angle)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    # The sampling grid spans [-1, 1]: a shift by the share s of the image is 2 s.
    return np.array([[cos, -sin, 2 * SHIFT * shift[0]], [sin, cos, 2 * SHIFT * shift[1]]])


def augmented(images: Tensor, parameters: Augmentation) -> Tensor:
    """Images (N, C, S, S) in [0, 1] with other contrast, gain, shading, sharpness and posture each; 0 stays 0.

    What becomes of an image does not depend on the others.
    """
    return in_pieces(_augmented, images, parameters)


def _augmented(images: Tensor, parameters: Augmentation) -> Tensor:
    there = on_device(parameters, images.device)
    # What comes in from outside repeats the border.
    places = F.affine_grid(there.matrix, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, places, padding_mode="border", align_corners=False)
    shading = interpolated(there.shading, images.shape[-1], align_corners=True).add_(1)[:, None]
    gamma, gain = there.gamma[:, :, None, None], there.gain[:, :, None, None]
    # In place: new memory for every product would take as long as the products.
    changed = (moved / PIVOT).pow_(gamma).mul_(PIVOT * gain).mul_(shading)
    # Known to the host, and different for nearly every image.
    for row, coarse in enumerate(parameters.coarse.tolist()):
        if coarse:
            changed[row] = _resampled(changed[row : row + 1], coarse)[0]
    return changed.clamp_(0, 1).mul_(moved > 0)


def _resampled(images: Tensor, coarse: int) -> Tensor:
    """Resampled to `coarse` pixels a side, averaging, and back."""
    small = F.interpolate(images, (coarse, coarse), mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear")
