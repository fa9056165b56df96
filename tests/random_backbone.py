"""Weights of backbones that are random: what they say of an image is little, but how they are used can be tested."""

from pathlib import Path

import torch
from torchvision.models import resnet18


def save_resnet18(folder: Path) -> Path:
    """Weights of an untrained ResNet18 in torchvision's layout, as an early version saved them."""
    torch.manual_seed(0)
    path = folder / "resnet18.pth"
    torch.save({k: v for k, v in resnet18(weights=None).state_dict().items() if "num_batches" not in k}, path)
    return path
