"""Left and right: healthy anatomy is much alike on both sides of the body, a lesion is mostly on one.

What a map finds at a place counts by its share of what it finds there and at the mirrored place together (equation 22
of docs/METHOD.md): all of it where the other side shows nothing, half of it where both sides show the same, as
ventricles and the skull's base do. The mirror is the column through the middle of the body.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from uad.inference import Method, Reconstruction

# What is brighter in any channel is body.
AIR = 0.05


def one_sided(maps: Tensor, images: Tensor) -> Tensor:
    """Maps (N, H, W) >= 0 of images (N, C, H, W) in [0, 1], less where the other side shows as much; zeros stay so.

    A place whose mirrored one lies outside the image keeps its value. A map does not depend on the others.
    """
    columns = torch.arange(maps.shape[-1], device=maps.device)
    mirrored = _columns_mirrored_to_first(images)[:, None] - columns
    inside = (mirrored >= 0) & (mirrored < len(columns))
    chosen = mirrored.clamp(0, len(columns) - 1)[:, None].expand_as(maps)
    other = maps.gather(2, chosen) * inside[:, None]
    return maps * (maps / (maps + other).clamp_min(torch.finfo(maps.dtype).tiny))


def _columns_mirrored_to_first(images: Tensor) -> Tensor:
    """Of each image (N,) int64: the column that mirrors column 0, twice the mean column of its body, rounded.

    Counts are integers, so that no order of a sum decides; where there is no body, the image's own middle mirrors.
    """
    counts = (images > AIR).any(1).sum(1)
    columns = torch.arange(images.shape[-1], device=images.device)
    total = counts.sum(1)
    mirrored = (2 * (counts * columns).sum(1) + total // 2) // total.clamp_min(1)
    return torch.where(total > 0, mirrored, images.shape[-1] - 1)


def with_sides(method: Method, compare: bool) -> Method:
    """The method itself, or where sides are to be compared, the method whose maps are."""
    return ComparingSides(method) if compare else method


class ComparingSides:
    """A method whose maps are compared with those of the other side, see `one_sided`; all else stays the method's."""

    def __init__(self, method: Method):
        self.method = method

    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """See uad.inference.Method."""
        found = self.method.reconstruct(images, generators)
        return replace(found, anomaly_map=one_sided(found.anomaly_map, images))
