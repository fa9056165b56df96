"""Synthetic lesions on healthy images: smooth blobs in which the tissue is not what it should be.

They stand for no particular disease. A network that is shown such images and asked for the healthy ones learns what is
out of place, where noise alone only teaches it what is improbable bit by bit.
"""

import numpy as np
import torch
import torch.nn.functional as F

MAX_BLOBS = 3
# Radii in units of the image size: from a focus of a few pixels to a large tumour.
RADIUS = (0.02, 0.18)
# Size of the random field that makes outlines irregular.
FIELD = 8
MIN_CHANGE, MAX_CHANGE = 0.08, 0.45
MAX_NOISE = 0.1


def corrupt(image: torch.Tensor, donor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A copy of a healthy image (C, S, S) in [0, 1] with one to three lesions inside its foreground.

    Each lesion is one of: intensities shifted, differently in every channel (half of the time); replaced by a constant
    with noise; blurred; or taken from another place of the image itself or of `donor`, another healthy image.
    """
    foreground = (image > 0.05).any(0)
    corrupted = image.clone()
    for _ in range(rng.integers(1, MAX_BLOBS + 1)):
        blob = _blob(foreground, rng)
        kind = rng.choice(4, p=(0.5, 0.2, 0.1, 0.2))
        if kind == 0:
            size = rng.uniform(MIN_CHANGE, MAX_CHANGE, len(image)) * (rng.random(len(image)) < 0.8)
            change = corrupted + _per_channel(size * rng.choice((-1, 1), len(image)))
        elif kind == 1:
            noise = rng.normal(0, rng.uniform(0, MAX_NOISE), image.shape).astype(np.float32)
            change = _per_channel(rng.uniform(0, 1, len(image))) + torch.from_numpy(noise)
        elif kind == 2:
            change = _blurred(corrupted)
        else:
            shift = tuple(int(d) for d in rng.integers(image.shape[-1] // 8, image.shape[-1] * 7 // 8, 2))
            change = (image, donor)[rng.integers(2)].roll(shift, (1, 2))
        corrupted = torch.lerp(corrupted, change, blob)
    return corrupted.clamp(0, 1)


def _per_channel(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))[:, None, None]


def _blurred(image: torch.Tensor) -> torch.Tensor:
    """The mean over squares of a sixteenth of the image size."""
    reach = max(1, image.shape[-1] // 32)
    return F.avg_pool2d(image[None], 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)[0]


def _blob(foreground: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A soft mask (S, S) in [0, 1]: an ellipse with an irregular outline around a random pixel of the foreground."""
    size = foreground.shape[-1]
    inside = foreground.nonzero()
    centre = inside[rng.integers(len(inside))].numpy() if len(inside) else np.full(2, size / 2)
    radius = size * np.exp(rng.uniform(*np.log(RADIUS)))
    angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 2)
    y, x = (torch.arange(size, dtype=torch.float32) - float(c) for c in centre)
    along = np.cos(angle) * x[None] + np.sin(angle) * y[:, None]
    across = np.cos(angle) * y[:, None] - np.sin(angle) * x[None]
    distance = torch.sqrt((along / stretch) ** 2 + (across * stretch) ** 2) / radius
    field = torch.from_numpy(rng.normal(0, 0.35, (1, 1, FIELD, FIELD)).astype(np.float32))
    outline = F.interpolate(field, (size, size), mode="bicubic", align_corners=False)[0, 0]
    softness = rng.uniform(0.1, 0.4)
    return torch.sigmoid((1 + outline - distance) / softness * 2) * foreground
