"""What goes with torchvision's networks trained on ImageNet. Nothing is downloaded."""

from pathlib import Path

import torch

# Of ImageNet's images, by which those that a network is shown are standardised: red, green and blue.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def cached_weights(file: str) -> Path:
    """Where torch's hub cache has a file of weights, if it is there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def found_weights(path: str | Path | None, file: str) -> Path | None:
    """A network's weights: `path` if given, else the file in torch's hub cache, else None."""
    cached = cached_weights(file)
    return Path(path) if path else cached if cached.is_file() else None
