"""Network layers that more than one method is made of."""

import math

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Group normalisation that, where a gradient is wanted, first brings its input to the contiguous layout.

    Convolutions on a CPU give some outputs in the channels-last layout, for which the backward pass of group
    normalisation is several times slower. Without a gradient the layout that the convolutions like best is kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous() if torch.is_grad_enabled() else x)


def limit_groups(network: nn.Module, most: int) -> None:
    """Give every group normalisation of a network at most `most` groups, as many as divide its channels.

    Groups of a single channel remove its mean and contrast, which say how bright the image is there.
    """
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = math.gcd(most, layer.num_channels)
