"""Fields over images, on any device with the same result but for rounding: interpolated, averaged and random ones."""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from uad.randomness import mixed_

# Of a counter's steps (the golden ratio of 2^32), written as the int32 that has these bits.
STEP = 0x9E3779B9 - 2**32


def interpolated(grids: Tensor, size: int, align_corners: bool) -> Tensor:
    """Smooth fields (N, size, size) through points (N, G, G), by bicubic interpolation.

    align_corners: whether the outer points lie on the middles of the outer pixels or half a grid cell inside.
    """
    count = grids.shape[-1]
    # The interpolation is linear and the same along both axes: two small products are much faster than it.
    unit = torch.eye(count, device=grids.device)[None, None]
    weights = F.interpolate(unit, (size, count), mode="bicubic", align_corners=align_corners)[0, 0]
    return weights @ grids @ weights.T


def box_mean(images: Tensor, reach: int) -> Tensor:
    """Means over squares of 2 * reach + 1 pixels a side, over what of them lies in the image; images (N, C, S, S)."""
    sums = _box_sum(_box_sum(images, reach, -2), reach, -1)
    ones = torch.ones(1, images.shape[-1], device=images.device)
    inside = _box_sum(ones, reach, -1)
    return sums.div_(inside.T * inside)


def _box_sum(values: Tensor, reach: int, dim: int) -> Tensor:
    """Sums over 2 * reach + 1 neighbours along one of the last two dimensions; beyond the border lie zeros.

    Put together from sums over 1, 2, 4, ... neighbours, as the binary digits of their number say: torch's pooling adds
    up every neighbourhood anew, and running sums round more.
    """
    length, side = values.shape[dim], 2 * reach + 1
    sums = F.pad(values, (reach, reach) if dim == -1 else (0, 0, reach, reach))
    total, done, width = torch.zeros_like(values), 0, 1
    while done < side:
        if side & width:
            total += sums.narrow(dim, done, length)
            done += width
        if done < side:
            doubled = sums.shape[dim] - width
            sums = sums.narrow(dim, 0, doubled) + sums.narrow(dim, width, doubled)
            width *= 2
    return total


def hashed(seeds: Tensor, count: int) -> Tensor:
    """Random numbers (N, count) of all int32, row i a function of seed i (N,) int32 and of nothing else.

    Counted and hashed: a generator gives other numbers on another device, and numbers drawn on the host are as large as
    the images.
    """
    return mixed_(torch.arange(count, dtype=torch.int32, device=seeds.device) * STEP + seeds[:, None])


def normal_noise(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (N, *shape), row i a function of seed i (N,) int32."""
    # 24 bits are what float32 holds; by half a step away from the ends, where the normal distribution has none.
    uniform = ((hashed(seeds, prod(shape)) >> 8) + 0.5).mul_(2.0**-23)
    return uniform.erfinv_().mul_(2**0.5).view(-1, *shape)
