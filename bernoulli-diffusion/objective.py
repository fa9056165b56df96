"""What stage 2 minimises: the cross entropy of the flips at random noise levels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.cuda_graphs import record_training
from uad.distributed import World
from uad.layers import image_keys
from uad.randomness import keyed_generator
from uad.training import Fraction, Losses

QUARTERS = 4


@dataclass(frozen=True)
class NoiseDraws:
    """What the loss of an image draws, by its position in the stream: position -> tensors by name.

    t: the noise level, one of 1..highest, (); uniform: the noise's source, in [0, 1), of code_shape (K, h, w); and,
    where `dropout` is set, keys: for the masks of dropout, (2,).
    """

    seed: int
    highest: int
    code_shape: tuple[int, int, int]
    dropout: bool = False

    def __call__(self, position: int) -> dict[str, Tensor]:
        generator = keyed_generator(self.seed, "noise", position)
        # In float32, as the uniform numbers are: t is the same whatever the machine.
        t = 1 + (torch.rand(1, generator=generator)[0] * self.highest).long()
        drawn = {"t": t, "uniform": torch.rand(*self.code_shape, generator=generator)}
        return drawn | ({"keys": image_keys(self.seed, [position])[0]} if self.dropout else {})


class DiffusionLoss:
    """The one phase of a stage-2 step, for batches with what NoiseDraws gives, which `draws` is.

    encode: (images, positions) -> codes, for batches without cached codes; highest: noise levels are drawn from
    1..highest.
    """

    def __init__(
        self,
        world: World,
        network: FlipUNet,
        process: BernoulliDiffusion,
        encode: Callable[[Tensor, list[int]], Tensor],
        seed: int,
        highest: int,
        code_shape: tuple[int, int, int],
    ):
        self.process, self.encode, self.highest = process, encode, highest
        self.network = world.wrap(network)
        self.draws = NoiseDraws(seed, highest, code_shape, network.dropout > 0)

    def __call__(self, batch: dict, step: int) -> Losses:
        code, shown = self._codes(batch)
        keys = (batch["keys"],) if self.draws.dropout else ()
        terms = self.process.training_loss(
            lambda z_t, t: self.network(z_t, t, *keys), code, batch["t"], batch["uniform"], shown
        )
        return terms.loss.mean(), self._logged(terms.loss.detach(), terms.noise_entropy, batch["t"])

    def record_graphs(self, images: int, amp: str) -> None:
        """Have the network's passes over batches of so many images replayed: see record_training."""
        device = next(self.network.parameters()).device
        inputs = [torch.zeros(images, *self.draws.code_shape), torch.ones(images, dtype=torch.long)]
        if self.draws.dropout:
            inputs.append(torch.zeros(images, 2, dtype=torch.int32))
        record_training(self.network, tuple(tensor.to(device) for tensor in inputs), amp)

    def _codes(self, batch: dict) -> tuple[Tensor, Tensor]:
        """The healthy codes and those that are shown, from the cache or encoded now."""
        if "code" in batch:
            return batch["code"], batch["shown"]
        positions = batch["position"].tolist()
        both = self.encode(torch.cat([batch["image"], batch["shown_image"]]), positions * 2)
        return tuple(both.chunk(2))

    def _logged(self, loss: Tensor, entropy: Tensor, t: Tensor) -> dict[str, Tensor | Fraction]:
        """The mean loss, and the loss by the noise's entropy: over all noise levels and in each quarter of them."""
        quarter = (QUARTERS * (t - 1)) // self.highest
        inside = torch.arange(QUARTERS, device=t.device) == quarter[:, None]
        both = torch.stack([loss, entropy])
        by_quarter = (both[:, :, None] * inside).sum(1)
        ratios = {"ratio": both.sum(1)} | {f"ratio_q{q + 1}": by_quarter[:, q] for q in range(QUARTERS)}
        return {"loss": loss.mean()} | {name: Fraction(*sums.unbind()) for name, sums in ratios.items()}
