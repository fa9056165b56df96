"""Network layers of this project: group normalisation, and dropout that is drawn anew for every image and layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from uad.randomness import derive_seed, mixed_


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


class KeyedDropout(nn.Module):
    """Dropout with a mask that is a function of the image's key, the layer's number and the place in the feature map.

    So it depends neither on the other images of a batch nor on the device or on what was drawn before. rate: the share
    of values set to zero in training, in [0, 1), else ValueError; the others are divided by 1 - rate. number: another
    one for every such layer of a network.
    """

    def __init__(self, rate: float, number: int):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of dropout is {rate}; one in [0, 1) is needed")
        self.rate, self.number = rate, number

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """x (N, ...) with keys (N, 2), int32, on the same device; ValueError where a mask needs keys that lack."""
        if not (self.training and self.rate):
            return x
        if keys is None:
            raise ValueError("dropout in training needs keys: two numbers for each image")
        of_image = mixed_(mixed_(keys[:, 0] + self.number) ^ keys[:, 1])
        of_place = mixed_(torch.arange(x[0].numel(), dtype=torch.int32, device=x.device))
        drawn = mixed_(of_image[:, None] ^ of_place).view(x.shape)
        return torch.where(drawn < int(self.rate * 2**32) - 2**31, 0.0, x * (1 / (1 - self.rate)))

    def extra_repr(self) -> str:
        return f"rate={self.rate}, number={self.number}"


def image_keys(seed: int, positions: Sequence[int]) -> Tensor:
    """Keys (N, 2), int32, of images by their positions in the stream of training images, for KeyedDropout."""
    return torch.tensor([[derive_seed(seed, "dropout", position)] for position in positions]).view(torch.int32)
