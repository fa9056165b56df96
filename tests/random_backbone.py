"""Weights of backbones that are random: what they say of an image is little, but how they are used can be tested."""

from pathlib import Path

import torch
from torch import nn
from torchvision.models import alexnet, resnet18


def save_resnet18(folder: Path) -> Path:
    """Weights of an untrained ResNet18 in torchvision's layout, as an early version saved them."""
    torch.manual_seed(0)
    path = folder / "resnet18.pth"
    torch.save({k: v for k, v in resnet18(weights=None).state_dict().items() if "num_batches" not in k}, path)
    return path


def save_alexnet(folder: Path) -> Path:
    """Weights of an untrained AlexNet in torchvision's layout, by which features keep their scale; some classifier."""
    torch.manual_seed(0)
    whole = nn.ModuleDict({"features": alexnet(weights=None).features, "classifier": nn.Linear(2, 3)})
    for layer in whole["features"]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    path = folder / "alexnet.pth"
    torch.save(whole.state_dict(), path)
    return path
