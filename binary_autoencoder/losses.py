"""Losses of the binarizing autoencoder: reconstruction, perceptual, adversarial and code terms."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uad.checkpoints import load_checkpoint
from uad.imagenet import DEVIATION, MEAN
from uad.weights import load_weights

VGG16_FILE = "vgg16-397923af.pth"
# The last ReLU of each of VGG-16's five blocks: the layers that LPIPS compares.
VGG16_BLOCK_ENDS = (4, 9, 16, 23, 30)


class PerceptualLoss(nn.Module):
    """Distance of unit-normalised VGG-16 features, per image channel, so that any number of channels works.

    Each channel is shown to the network as a grey image. Per block: squared difference of features normalised over
    channels, summed over them and averaged over positions (Zhang et al., CVPR 2018, with uniform head weights).
    """

    def __init__(self, weights: Path):
        super().__init__()
        # Here: most trainings do without this loss, and it takes two seconds to import.
        from torchvision.models import vgg16

        network = vgg16(weights=None)
        load_weights(network, load_checkpoint(weights), weights)
        ends = (0, *VGG16_BLOCK_ENDS)
        self.blocks = nn.ModuleList(network.features[a:b] for a, b in pairwise(ends)).requires_grad_(False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean distance of two batches (N, C, H, W) in [0, 1]; a scalar."""
        x, y = (((v.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)) - self.mean) / self.std for v in (x, y))
        distance = x.new_zeros(())
        for block in self.blocks:
            x, y = block(x), block(y)
            distance = distance + (F.normalize(x.float()) - F.normalize(y.float())).square().sum(1).mean()
        return distance


def discriminator_hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def adaptive_weight(
    reconstruction_loss: Tensor,
    adversarial_loss: Tensor,
    last_layer: Tensor,
    maximum: float,
    mean_over_processes: Callable[[Tensor], Tensor],
) -> Tensor:
    """||d reconstruction / d last|| / (||d adversarial / d last|| + 1e-4), at most `maximum` (Esser et al., CVPR 2021).

    Gradients are averaged over processes first, so that the weight is that of the global batch.
    """
    norms = [
        mean_over_processes(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reconstruction_loss, adversarial_loss)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(max=maximum).detach()


def code_uncertainty(probability: Tensor) -> Tensor:
    """Mean p (1 - p) over all bits: 0 for certain codes, 0.25 for pure noise."""
    return (probability * (1 - probability)).mean()


def code_usage(code: Tensor) -> dict[str, Tensor]:
    """How a batch (N, K, h, w) uses its bits: the share that is set, and the share of bits that hardly ever change.

    A bit is unused if it has the same value at more than 99 % of the positions of the batch.
    """
    rate = code.mean(dim=(0, 2, 3))
    return {"bits_set": rate.mean(), "bits_unused": ((rate < 0.01) | (rate > 0.99)).float().mean()}


def colour_and_translation(x: Tensor, uniform: Tensor) -> Tensor:
    """Differentiable augmentation of a batch (N, C, H, W) (Zhao et al., NeurIPS 2020), driven by `uniform` (N, 5).

    Brightness +-0.5, saturation x 0..2, contrast x 0.5..1.5, then a shift by up to 1/8 of the size with zero filling.
    """
    brightness, saturation, contrast = (u[:, None, None, None] for u in uniform[:, :3].unbind(1))
    x = x + brightness - 0.5
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2 * saturation) + grey
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - level) * (contrast + 0.5) + level
    n, _, height, width = x.shape
    limits = uniform.new_tensor([height // 8, width // 8])
    shift = ((2 * limits + 1) * uniform[:, 3:]).floor() - limits
    rows, columns = (
        torch.arange(size, device=x.device)[None] + shift[:, i : i + 1].long() for i, size in enumerate((height, width))
    )
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[:, None, None, :]
    index = torch.arange(n, device=x.device)[:, None, None]
    shifted = x.permute(0, 2, 3, 1)[
        index, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return shifted.permute(0, 3, 1, 2) * inside
