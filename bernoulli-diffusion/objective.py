"""What stage 2 minimises: the cross entropy of the flips at random noise levels."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.distributed import World
from uad.layers import image_keys
from uad.randomness import keyed_generator, uniform_field
from uad.training import Fraction, Losses


class DiffusionLoss:
    """The one phase of a stage-2 step; noise levels, noise and dropout are keyed by an image's position in the stream.

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
    ):
        self.world, self.network, self.process, self.encode = world, world.wrap(network), process, encode
        self.seed, self.highest, self.dropout = seed, highest, network.dropout

    def __call__(self, batch: dict, step: int) -> Losses:
        device = self.world.device
        positions = batch["position"].tolist()
        code, shown = self._codes(batch, positions)
        generators = [keyed_generator(self.seed, "noise", p, device=device) for p in positions]
        t = 1 + (uniform_field(generators, (1,))[:, 0] * self.highest).long()
        uniform = uniform_field(generators, code.shape[1:])
        keys = image_keys(self.seed, "dropout", positions, device) if self.dropout else None
        terms = self.process.training_loss(partial(self.network, keys=keys), code, t, uniform, shown)
        logged = {"loss": terms.loss.mean(), "ratio": Fraction(terms.loss.sum(), terms.noise_entropy.sum())}
        quarter = (4 * (t - 1)) // self.highest
        for q in range(4):
            inside = quarter == q
            logged[f"ratio_q{q + 1}"] = Fraction((terms.loss * inside).sum(), (terms.noise_entropy * inside).sum())
        return terms.loss.mean(), logged

    def _codes(self, batch: dict, positions: list[int]) -> tuple[Tensor, Tensor]:
        """The healthy codes and those that are shown, from the cache or encoded now."""
        if "code" in batch:
            return batch["code"], batch["shown"]
        both = self.encode(torch.cat([batch["image"], batch["shown_image"]]), positions * 2)
        return tuple(both.chunk(2))
