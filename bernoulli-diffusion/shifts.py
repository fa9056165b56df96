"""An image seen through several grids: copies shifted by half a code position, and their outcomes brought together.

A position of the code covers a square of pixels. What a network makes of an image depends on where the squares' borders
happen to lie; the mean over several places does less so.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Number of copies -> their shifts (down, right), in half positions of the code. Each number begins with the copies of
# the smaller ones, so that what was kept of these serves it, too (grid.py).
SHIFTS = {1: ((0, 0),), 2: ((0, 0), (1, 1)), 4: ((0, 0), (1, 1), (0, 1), (1, 0))}
# Decoding costs as much as encoding and denoising a copy; more than two reconstructions hardly differ in their mean.
DECODED = 2


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, C, H, W) without their first `down` rows and `right` columns; at the other end they are mirrored.

    A repeated border would make streaks there, which look abnormal.
    """
    return F.pad(images, (0, right, 0, down), mode="reflect")[..., down:, right:]


def mean_of_shifted(values: Sequence[Tensor], shifts: Sequence[tuple[int, int]]) -> Tensor:
    """The mean of values (N, C, H, W) of copies shifted by (down, right) pixels, each moved back to its place (equation
    17 of docs/METHOD.md).

    A pixel that a copy does not show counts in the others alone; one of the shifts has to be (0, 0).
    """
    height, width = values[0].shape[-2:]
    total, count = torch.zeros_like(values[0]), values[0].new_zeros(height, width)
    for value, (down, right) in zip(values, shifts, strict=True):
        total[..., down:, right:] += value[..., : height - down, : width - right]
        count[down:, right:] += 1
    return total / count
