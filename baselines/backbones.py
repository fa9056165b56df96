"""Frozen networks trained on ImageNet, whose feature maps some methods judge images by. Nothing is downloaded.

The weights are torchvision's (IMAGENET1K_V1). A channel is shown as a grey image, all three of a three-channel image as
red, green and blue, with ImageNet's mean and standard deviation.

The published methods have ResNets. AlexNet is that of Krizhevsky, "One weird trick for parallelizing convolutional
neural networks", 2014; its paddings differ from torchvision's, so that it halves the image exactly.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from uad.checkpoints import load_checkpoint
from uad.errors import input_error
from uad.imagenet import DEVIATION, MEAN, cached_weights
from uad.weights import load_weights

# Counted in training alone; files of early versions of torchvision do not have it.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Backbone:
    """A network of torchvision's, what it has of an image, and where its weights come from.

    name: torchvision's; strides: by the names of its children whose outputs may be wanted, from the finest on, how many
    pixels apart their positions lie. part: the name of the child of the whole network that `build` gives, if it gives
    but one. change: what is changed of it. in_tables: what the name of a method with this backbone is followed by.
    """

    name: str
    strides: Mapping[str, int]
    part: str = ""
    change: Callable[[nn.Module], None] = lambda network: None
    in_tables: str = ""

    def build(self) -> nn.Module:
        """The network, untrained."""
        whole = _torchvision_models().get_model(self.name, weights=None)
        network = whole.get_submodule(self.part)
        self.change(network)
        return network

    @property
    def url(self) -> str:
        """Where torchvision has the weights."""
        return _torchvision_models().get_model_weights(self.name).IMAGENET1K_V1.url

    @property
    def file(self) -> str:
        """What the file of weights is called."""
        return self.url.rsplit("/", 1)[1]

    def layers_at(self, strides: Collection[int]) -> list[str]:
        """The layers of the given strides, from the finest on."""
        return [layer for layer, stride in self.strides.items() if stride in strides]


def _torchvision_models() -> ModuleType:
    # Here: most commands do without, and it takes two seconds to import.
    from torchvision import models

    return models


def halve_exactly(features: nn.Module) -> None:
    """Pad AlexNet's convolutions so that sides that are multiples of 16 are divided by 4, 8 and 16."""
    first, *_ = (each for each in features if isinstance(each, nn.Conv2d))
    first.padding = (4, 4)
    for pool in (each for each in features if isinstance(each, nn.MaxPool2d)):
        pool.padding = 1


RESNET_STRIDES = {"maxpool": 4, "layer1": 4, "layer2": 8, "layer3": 16}
BACKBONES = {
    "wide_resnet50_2": Backbone("wide_resnet50_2", RESNET_STRIDES),
    "resnet18": Backbone("resnet18", RESNET_STRIDES),
    # After the ReLU of the first, second and fifth convolution.
    "alexnet": Backbone(
        "alexnet", {"1": 4, "4": 8, "11": 16}, part="features", change=halve_exactly, in_tables=" (AlexNet)"
    ),
}


def backbone_weights(name: str, path: str | Path | None) -> Path:
    """The file of a backbone's weights: `path` if given, else torchvision's in torch's hub cache.

    Raises InputError, which says where it is to be had and where it may lie, if there is none.
    """
    backbone = BACKBONES[name]
    cached = cached_weights(backbone.file)
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
    their channels; `backbone` is what the features are of.
    """

    def __init__(self, name: str, layers: Sequence[str]):
        super().__init__()
        self.backbone = BACKBONES[name]
        children = OrderedDict(self.backbone.build().named_children())
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
        part = self.backbone.part
        # Named as in the file, and so in errors.
        whole = nn.ModuleDict({part: self.network}) if part else self.network
        kept = tuple(f"{part}.{name}." if part else f"{name}." for name, _ in self.network.named_children())
        counters = {key: value for key, value in whole.state_dict().items() if key.endswith(COUNTER)}
        trained = {key: value for key, value in load_checkpoint(path).items() if key.startswith(kept)}
        load_weights(whole, counters | trained, path)

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
