"""The released procedure, written out plainly: what the fast one is measured against.

float32, one image at a time, every denoising step, no cache, no overlap, the default optimizers. Networks are given
from outside: the same weights as the fast procedure's. The noise is the paper's, symmetric.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uad.scores import anomaly_map


def detect(
    image: Tensor,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    network: Callable[[Tensor, Tensor], Tensor],
    alpha_bar: Tensor,
    generator: torch.Generator,
    levels: Iterable[int],
    noise_level: int = 200,
    prob_threshold: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Reconstruction (1, C, S, S) and map (1, S, S) of one image by masked denoising.

    encode: image -> bit probabilities; network: (z_t, t) -> log-odds of a flip; alpha_bar: A_0..A_T, float32;
    levels: the noise levels whose step is done, `range(L, 0, -1)` for all. Where it is shorter, the time of the rest
    can be inferred, since every step costs the same.
    """
    with torch.no_grad():
        z_0 = (encode(image) > 0.5).float()
        shape = z_0.shape[1:]

        def draw() -> Tensor:
            return torch.rand(*shape, generator=generator, device=z_0.device)[None]

        z_t = (draw() < alpha_bar[noise_level] * z_0 + (1 - alpha_bar[noise_level]) / 2).float()
        mask = torch.zeros_like(z_0, dtype=torch.bool)
        for t in levels:
            flip = torch.sigmoid(network(z_t, torch.tensor([t], device=z_0.device)))
            mask = mask | (flip > prob_threshold)
            x0 = torch.where(mask, (z_t - flip).abs(), z_0)
            if t == 1:
                z_t = (x0 > 0.5).float()
                continue
            one = _weight(z_t, x0, alpha_bar, t)
            zero = _weight(1 - z_t, 1 - x0, alpha_bar, t)
            z_t = (draw() < one / (one + zero)).float()
        reconstruction = decode(z_t).clamp(0, 1)
        return reconstruction, anomaly_map(image, reconstruction)


def _weight(z_t: Tensor, x0: Tensor, alpha_bar: Tensor, t: int) -> Tensor:
    """q(z_t | z_s = 1) q(z_s = 1 | x0) for s = t - 1, up to a factor that z_s = 0 shares."""
    r, a = alpha_bar[t] / alpha_bar[t - 1], alpha_bar[t - 1]
    return (r * z_t + (1 - r) / 2) * (a * x0 + (1 - a) / 2)


class Stage1:
    """A training step of the autoencoder with its adversarial branch computed always, as before its start: weight 0."""

    def __init__(self, network: nn.Module, discriminator: nn.Module, last_layer: Callable[[], Tensor]):
        self.network, self.discriminator, self.last_layer = network, discriminator, last_layer
        self.optimizer = torch.optim.Adam(network.parameters(), 1e-4)

    def step(self, images: Tensor) -> None:
        """One update on images (N, C, S, S)."""
        reconstruction = self.network(images)[0]
        error = (reconstruction - images).abs().mean()
        adversarial = -self.discriminator(reconstruction).mean()
        norms = [
            torch.autograd.grad(loss, self.last_layer(), retain_graph=True)[0].norm() for loss in (error, adversarial)
        ]
        weight = 0.0 * (norms[0] / (norms[1] + 1e-4)).clamp(0, 1).detach()
        self.optimizer.zero_grad()
        (error + weight * adversarial).backward()
        self.optimizer.step()


class Stage2:
    """A training step of the diffusion network, the encoder in the loop, the weights averaged one by one."""

    def __init__(self, network: nn.Module, encode: Callable[[Tensor], Tensor], alpha_bar: Tensor):
        self.network, self.encode, self.alpha_bar = network, encode, alpha_bar
        self.optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=0.0)
        self.average = [p.detach().clone() for p in network.parameters()]

    def step(self, images: Tensor) -> None:
        """One update on images (N, C, S, S)."""
        with torch.no_grad():
            probability = self.encode(images)
            z_0 = torch.bernoulli(probability)
        t = torch.randint(1, len(self.alpha_bar), (len(images),), device=images.device)
        a = self.alpha_bar[t][:, None, None, None]
        z_t = torch.bernoulli(a * z_0 + (1 - a) / 2)
        loss = F.binary_cross_entropy_with_logits(self.network(z_t, t), (z_t != z_0).float())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for average, parameter in zip(self.average, self.network.parameters(), strict=True):
            average.mul_(0.999).add_(parameter.detach(), alpha=0.001)
