"""What stage 1 minimises: the losses of the autoencoder and of the discriminator."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from binary_autoencoder.losses import (
    adaptive_weight,
    code_uncertainty,
    code_usage,
    colour_and_translation,
    discriminator_hinge,
)
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from uad.distributed import World
from uad.randomness import keyed_generator
from uad.training import Losses


@dataclass(frozen=True)
class LossTerms:
    """Weights of the terms beside the mean absolute error.

    code_weight: of the mean of p (1 - p); perceptual_weight: of the perceptual distance; disc_start_step: from which
    the adversarial term acts, with an adaptive weight of disc_weight_max at most; diff_aug: the discriminator sees
    augmented images.
    """

    code_weight: float = 0.0
    perceptual_weight: float = 0.0
    disc_start_step: int = 30_001
    disc_weight_max: float = 1.0
    diff_aug: bool = False


# How many numbers colour_and_translation takes for an image.
AUGMENTATION_NUMBERS = 5


@dataclass(frozen=True)
class BitDraws:
    """What the losses of an image draw, by its position in the stream: position -> tensors by name.

    bits_uniform: the source of sampled bits, in [0, 1), of code_shape (K, h, w); and, where `diff_aug` is set,
    augmentation_uniform, for what the discriminator sees.
    """

    seed: int
    code_shape: tuple[int, int, int]
    diff_aug: bool

    def __call__(self, position: int) -> dict[str, Tensor]:
        def uniform(purpose: str, *shape: int) -> Tensor:
            return torch.rand(*shape, generator=keyed_generator(self.seed, purpose, position))

        drawn = {"bits_uniform": uniform("bits", *self.code_shape)}
        if self.diff_aug:
            drawn["augmentation_uniform"] = uniform("augmentation", AUGMENTATION_NUMBERS)
        return drawn


class AutoencoderLosses:
    """The two phases of a stage-1 step: autoencoder, then (from `disc_start_step` on) discriminator.

    For batches with what BitDraws gives, which `draws` is.
    perceptual: (reconstruction, image) -> distance, None where the perceptual weight is 0.
    """

    def __init__(
        self,
        terms: LossTerms,
        seed: int,
        world: World,
        network: BinaryAutoEncoder,
        discriminator: Discriminator,
        perceptual: nn.Module | None = None,
    ):
        self.terms, self.world = terms, world
        self.draws = BitDraws(seed, network.code_shape, terms.diff_aug)
        self.network, self.discriminator, self.perceptual = network, discriminator, perceptual
        self.wrapped_network = world.wrap(network)
        # Before its first step the discriminator has no gradients to synchronise; wrapping it costs nothing.
        self.wrapped_discriminator = world.wrap(discriminator)

    def autoencoder(self, batch: dict, step: int) -> Losses:
        """Reconstruction + perceptual + code + adversarial terms."""
        image = batch["image"]
        reconstruction, code, probability = self.wrapped_network(image, batch["bits_uniform"])
        reconstruction = reconstruction.float()
        recon_loss = (reconstruction - image).abs().mean()
        uncertainty = code_uncertainty(probability)
        logged = {"l1": recon_loss, "code_uncertainty": uncertainty, **code_usage(code)}
        if self.perceptual is not None:
            logged["perceptual"] = self.perceptual(reconstruction, image)
            recon_loss = recon_loss + self.terms.perceptual_weight * logged["perceptual"]
        loss = recon_loss + self.terms.code_weight * uncertainty
        if step >= self.terms.disc_start_step:
            batch["reconstruction"] = reconstruction.detach()
            adversarial = -self._scores(reconstruction, batch, self.discriminator.requires_grad_(False)).mean()
            last = self.network.generator.last_layer
            weight = adaptive_weight(recon_loss, adversarial, last, self.terms.disc_weight_max, self.world.mean)
            loss = loss + weight * adversarial
            logged |= {"adversarial": adversarial, "adversarial_weight": weight}
        return loss, logged | {"loss": loss}

    def discriminate(self, batch: dict, step: int) -> Losses:
        """Hinge loss on real images and the reconstructions of this step."""
        self.discriminator.requires_grad_(True)
        both = torch.cat([batch["image"], batch["reconstruction"]])
        real, fake = self._scores(both, batch, self.wrapped_discriminator).chunk(2)
        loss = discriminator_hinge(real, fake)
        return loss, {"discriminator": loss}

    def _scores(self, images: Tensor, batch: dict, discriminator: nn.Module) -> Tensor:
        if self.terms.diff_aug:
            uniform = batch["augmentation_uniform"]
            images = colour_and_translation(images, uniform.repeat(len(images) // len(uniform), 1))
        return discriminator(images).float()
