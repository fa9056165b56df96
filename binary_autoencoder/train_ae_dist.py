"""Stage 1: train the binarizing autoencoder on healthy images.

One process (CPU or one GPU):
    python binary_autoencoder/train_ae_dist.py --dataset brats --data_dir data/brats/train_healthy \\
        --log_dir logs/binaryae_brats --amp --norm_first
Several GPUs of one machine (the older launcher works too:
python -m torch.distributed.launch --nproc_per_node=4 --use_env ...):
    torchrun --standalone --nproc-per-node=4 binary_autoencoder/train_ae_dist.py ...
Several machines, the same line on each:
    torchrun --nnodes=2 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 --rdzv-id=JOB \\
        binary_autoencoder/train_ae_dist.py ...

--batch_size is the global one. Running the same command again continues from the newest checkpoint. Written to
--log_dir (default logs/binaryae_<dataset>): saved_models/binaryae_<step>.th (all that resuming needs),
binaryae_ema_<step>.th (weights for the later stages), log.jsonl, images/.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from binary_autoencoder.checkpoint import KIND, checkpoint_files, find_step
from binary_autoencoder.flags import TRAINING_PRESETS, add_autoencoder_flags, network_config
from binary_autoencoder.losses import (
    PerceptualLoss,
    adaptive_weight,
    code_uncertainty,
    code_usage,
    colour_and_translation,
    discriminator_hinge,
    find_vgg16_weights,
)
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from uad.cli.command import run_command
from uad.cli.flags import (
    Flags,
    add,
    add_shared_flags,
    add_switch,
    reading_of,
    train_options,
    variation_of,
)
from uad.data.reading.folder import SliceFolder
from uad.data.reading.opening import check_once, open_slices
from uad.data.training.loading import TrainingImages, collate_training
from uad.distributed import World, distributed_world
from uad.files import written_whole
from uad.optimizers import make_optimizer
from uad.precision import autocast, resolve_amp
from uad.randomness import keyed_generator, uniform_field
from uad.training import Losses, Phase, Training

PICTURES = 8


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of stage 1."""
    parser = Flags(__doc__, TRAINING_PRESETS)
    add_shared_flags(parser)
    add_autoencoder_flags(parser)
    add_loss_flags(parser)
    return parser


def add_loss_flags(parser: argparse.ArgumentParser) -> None:
    """Loss terms, EMA and starting point of stage 1."""
    group = parser.add_argument_group("stage 1")
    add(
        group,
        "--base_lr",
        type=float,
        default=4.5e-6,
        help="learning rate per image of the batch, without --lr",
    )
    add(
        group,
        "--code_weight",
        type=float,
        default=0.0,
        help="weight of mean p (1 - p), which makes bits certain",
    )
    add(
        group,
        "--perceptual_weight",
        type=float,
        default=0.0,
        help="weight of the perceptual distance (VGG-16)",
    )
    add(
        group,
        "--perceptual_weights",
        help="file of ImageNet VGG-16 weights",
        shown="torch's hub cache, if there",
    )
    add(group, "--disc_start_step", type=int, default=30_001, help="step from which the adversarial term acts")
    add(
        group,
        "--disc_weight_max",
        type=float,
        default=1.0,
        help="largest adaptive weight of the adversarial term",
    )
    add(group, "--disc_layers", type=int, default=3, help="layers of the discriminator")
    add(group, "--ndf", type=int, default=64, help="width of the discriminator")
    add_switch(group, "--diff_aug", "the discriminator sees augmented images")
    add(group, "--ema_beta", type=float, default=0.995, help="decay of the EMA weights")
    add(
        group,
        "--steps_per_update_ema",
        type=int,
        default=10,
        help="steps between two updates of the EMA weights",
    )
    add(group, "--load_dir", help="begin with the weights of another stage-1 run", shown="none")
    add(group, "--load_step", default="latest", help="its checkpoint: a step, or latest")
    add_switch(group, "--load_optim", "take its optimizer states over, too")


class AutoencoderLosses:
    """The two phases of a stage-1 step: autoencoder, then (from `disc_start_step` on) discriminator."""

    def __init__(self, args, world: World, network: BinaryAutoEncoder, discriminator: Discriminator):
        self.args, self.world, self.network, self.discriminator = args, world, network, discriminator
        self.wrapped_network = world.wrap(network)
        # Before its first step the discriminator has no gradients to synchronise; wrapping it costs nothing.
        self.wrapped_discriminator = world.wrap(discriminator)
        self.perceptual = self._perceptual()

    def _perceptual(self) -> nn.Module | None:
        if not self.args.perceptual_weight:
            return None
        weights = find_vgg16_weights(self.args.perceptual_weights)
        if weights is None:
            if self.world.is_main:
                print("No VGG-16 weights in torch's hub cache and no --perceptual_weights: the perceptual weight is 0.")
            return None
        return PerceptualLoss(weights).to(self.world.device)

    def _uniform(self, purpose: str, batch: dict, shape: tuple[int, ...]) -> Tensor:
        """One uniform field per image, keyed by its position in the stream of training images."""
        positions = batch["position"].tolist()
        device = self.world.device
        return uniform_field([keyed_generator(self.args.seed, purpose, p, device=device) for p in positions], shape)

    def autoencoder(self, batch: dict, step: int) -> Losses:
        """Reconstruction + perceptual + code + adversarial terms."""
        image = batch["image"]
        uniform = self._uniform("bits", batch, self.network.code_shape)
        reconstruction, code, probability = self.wrapped_network(image, uniform)
        reconstruction = reconstruction.float()
        recon_loss = (reconstruction - image).abs().mean()
        uncertainty = code_uncertainty(probability)
        logged = {"l1": recon_loss, "code_uncertainty": uncertainty, **code_usage(code)}
        if self.perceptual is not None:
            logged["perceptual"] = self.perceptual(reconstruction, image)
            recon_loss = recon_loss + self.args.perceptual_weight * logged["perceptual"]
        loss = recon_loss + self.args.code_weight * uncertainty
        if step >= self.args.disc_start_step:
            batch["reconstruction"] = reconstruction.detach()
            adversarial = -self._scores(reconstruction, batch, self.discriminator.requires_grad_(False)).mean()
            last = self.network.generator.last_layer
            weight = adaptive_weight(recon_loss, adversarial, last, self.args.disc_weight_max, self.world.mean)
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
        if self.args.diff_aug:
            uniform = self._uniform("augmentation", batch, (5,))
            images = colour_and_translation(images, uniform.repeat(len(images) // len(uniform), 1))
        return discriminator(images).float()


@torch.no_grad()
def save_pictures(path: Path, images: Tensor, network: BinaryAutoEncoder) -> None:
    """One row per image: every channel of the input, then of the reconstruction."""
    reconstruction = network(images, torch.full((len(images), *network.code_shape), 0.5, device=images.device))[0]
    rows = torch.stack([images, reconstruction.float().clamp(0, 1)], dim=1)
    with written_whole(path) as temporary:
        save_image(rows.flatten(0, 2)[:, None].cpu(), temporary, nrow=2 * images.shape[1], padding=1)


@torch.no_grad()
def validation_l1(slices: SliceFolder, network: BinaryAutoEncoder, world: World, batch_size: int) -> dict[str, float]:
    """Mean absolute error on held-out slices, shared over processes."""
    own = range(world.rank, len(slices), world.size)
    total = torch.zeros(2, device=world.device)
    for start in range(0, len(own), batch_size):
        images = torch.stack([slices[i]["image"] for i in own[start : start + batch_size]]).to(world.device)
        code = (network.encode(images) > 0.5).float()
        total += torch.stack(
            [(network.decode(code) - images).abs().mean((1, 2, 3)).sum(), total.new_tensor(len(images))]
        )
    total = world.mean(total)
    return {"val_l1": float(total[0] / total[1])}


def main(args: argparse.Namespace) -> None:
    """Check the data, then train."""
    with distributed_world(args.device) as world:
        config = network_config(args)
        world.share_of(args.batch_size)
        data = reading_of(args)
        summaries = check_once(args, data, args.batch_size, healthy=True, world=world)
        if world.is_main:
            print("\n".join(summaries))
        if args.check_data:
            return
        training = build(args, world, config, data)
        steps = training.run()
        if world.is_main:
            print(f"Stage 1: {steps} of {args.train_steps} steps done; checkpoints in {training.files.folder}")


def build(args: argparse.Namespace, world: World, config: dict, data: dict) -> Training:
    """The run that the flags describe."""
    log_dir = Path(args.log_dir or f"logs/binaryae_{args.dataset}")
    amp = resolve_amp(args.amp, world.device)
    torch.manual_seed(args.seed)
    network = BinaryAutoEncoder(**config).to(world.device)
    discriminator = Discriminator(config["n_channels"], args.ndf, args.disc_layers).to(world.device)
    losses = AutoencoderLosses(args, world, network, discriminator)
    lr = args.lr or args.base_lr * args.batch_size
    slices = open_slices(args, data, args.data_dir)
    images = TrainingImages(slices, variation_of(args), args.cache_gib if args.workers == 0 else 0)
    pictured = torch.stack([slices[i]["image"] for i in range(min(PICTURES, len(slices)))])

    def shown(ema: nn.Module) -> BinaryAutoEncoder:
        return ema if args.ema else network

    def sample(step: int, ema: nn.Module) -> None:
        with autocast(amp, world.device):
            save_pictures(log_dir / "images" / f"{step:07d}.png", pictured.to(world.device), shown(ema))

    evaluate = None
    if args.val_dir:
        held_out = open_slices(args, data, args.val_dir)

        def evaluate(ema: nn.Module) -> dict[str, float]:
            with autocast(amp, world.device):
                return validation_l1(held_out, shown(ema), world, args.batch_size)

    initial = None
    if args.load_dir:
        initial_files = checkpoint_files(args.load_dir)
        initial = initial_files.state_path(
            find_step(initial_files.folder, initial_files.steps(), "load_step", args.load_step)
        )
    return Training(
        kind=KIND,
        world=world,
        options=train_options(args, amp, args.ema_beta, args.steps_per_update_ema),
        log_dir=log_dir,
        files=checkpoint_files(log_dir),
        modules={"autoencoder": network, "discriminator": discriminator},
        averaged="autoencoder",
        phases=[
            Phase(
                "autoencoder",
                losses.wrapped_network,
                make_optimizer(network, lr, args.optimizer, args.matrix_lr, amp=amp),
                losses.autoencoder,
            ),
            Phase(
                "discriminator",
                losses.wrapped_discriminator,
                make_optimizer(discriminator, lr),
                losses.discriminate,
                first_step=args.disc_start_step,
            ),
        ],
        dataset=images,
        collate=collate_training,
        config={"network": config, "data": data},
        settings=settings_of(args, config, data, amp, lr, len(slices)),
        sample=sample,
        evaluate=evaluate,
        initial=initial,
        initial_optimizers=args.load_optim,
    )


def settings_of(args: argparse.Namespace, config: dict, data: dict, amp: str, lr: float, images: int) -> dict:
    """What a rerun in the same folder must repeat."""
    names = (
        "batch_size", "seed", "compile", "horizontal_flip", "augment", "clip_norm", "lr_anneal_steps", "ema_beta",
        "steps_per_update_ema", "code_weight", "perceptual_weight", "disc_start_step", "disc_weight_max",
        "disc_layers", "ndf", "diff_aug", "load_dir", "load_step", "load_optim", "optimizer", "matrix_lr",
    )  # fmt: skip
    return config | data | {name: getattr(args, name) for name in names} | {"amp": amp, "lr": lr, "images": images}


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
