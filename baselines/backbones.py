"""Frozen networks trained on ImageNet, whose feature maps some methods judge images by. Nothing is downloaded.

The weights are torchvision's (IMAGENET1K_V1). A channel is shown as a grey image, all three of a three-channel image as
red, green and blue, with ImageNet's mean and standard deviation.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, Wide_ResNet50_2_Weights, resnet18, wide_resnet50_2

from uad.checkpoints import load_checkpoint, load_weights
from uad.errors import input_error

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Counted in training alone; files of early versions of torchvision do not have it.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision's, and where its weights come from."""

    build: Callable[..., nn.Module]
    url: str

    @property
    def file(self) -> str:
        """What the file of weights is called."""
        return self.url.rsplit("/", 1)[1]


BACKBONES = {
    "wide_resnet50_2": Backbone(wide_resnet50_2, Wide_ResNet50_2_Weights.IMAGENET1K_V1.url),
    "resnet18": Backbone(resnet18, ResNet18_Weights.IMAGENET1K_V1.url),
}


def backbone_weights(name: str, path: str | Path | None) -> Path:
    """The file of a backbone's weights: `path` if given, else torchvision's in torch's hub cache.

    Raises InputError, which says where it is to be had and where it may lie, if there is none.
    """
    backbone = BACKBONES[name]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / backbone.file
    found = Path(path) if path else cached
    if not found.is_file():
        raise input_error(
            "--backbone_weights",
            f"no file {found}",
            f"{backbone.file}, torchvision's ImageNet weights of {name}; nothing is downloaded",
            f"get it from {backbone.url} and name it with --backbone_weights, or put it at {cached}",
        )
    return found


class FrozenFeatures(nn.Module):
    """Feature maps of a backbone, always in evaluation mode: neither weights nor running statistics ever change.

    layers: names of the children whose outputs are wanted, in order; those after the last are left out. `widths` are
    their channels.
    """

    def __init__(self, name: str, layers: Sequence[str]):
        super().__init__()
        children = OrderedDict(BACKBONES[name].build(weights=None).named_children())
        names = list(children)
        kept = names[: names.index(layers[-1]) + 1]
        self.network = nn.Sequential(OrderedDict((child, children[child]) for child in kept))
        self.layers = tuple(layers)
        for statistic, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(statistic, torch.tensor(values)[:, None, None], persistent=False)
        self.requires_grad_(False).train()

    @property
    def widths(self) -> list[int]:
        """The channels of the feature maps, by layer."""
        return [each.shape[1] for each in self(torch.zeros(1, 3, 16, 16, device=self.mean.device))]

    def train(self, mode: bool = True) -> "FrozenFeatures":
        """Stay in evaluation mode, whatever the network around it does."""
        return super().train(False)

    def load(self, path: Path) -> None:
        """Take the weights of a whole network of torchvision's; InputError where the file does not hold them."""
        own = self.network.state_dict()
        counters = {key: value for key, value in own.items() if key.endswith(COUNTER)}
        children = {name for name, _ in self.network.named_children()}
        trained = {key: value for key, value in load_checkpoint(path).items() if key.split(".")[0] in children}
        load_weights(self.network, counters | trained, path)

    def forward(self, shown: Tensor) -> list[Tensor]:
        """Pictures (N, 3, S, S) in [0, 1] -> the feature maps (N, width, s, s) of the layers."""
        features, found = (shown - self.mean) / self.deviation, []
        for name, child in self.network.named_children():
            features = child(features)
            if name in self.layers:
                found.append(features)
        return found


def picture_count(n_channels: int) -> int:
    """As how many pictures an image of so many channels is shown: three channels as one in colours."""
    return 1 if n_channels == 3 else n_channels


def pictures(images: Tensor) -> Tensor:
    """Images (N, C, S, S) as pictures (N * P, 3, S, S), those of an image one after the other; P: see picture_count."""
    if images.shape[1] == 3:
        return images
    return images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
