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
In minutes on a CPU: --size small.

--batch_size is the total over all processes. Run the same command again to continue from the newest checkpoint.
Written to --log_dir (default logs/binaryae_<dataset>): saved_models/binaryae_<step>.th (all that resuming needs),
binaryae_ema_<step>.th (weights for the later stages), log.jsonl, images/,
slices-<hash>/ (decoded training images, see --cache_dir; may be deleted when no run uses them).
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from binary_autoencoder.architecture import Architecture
from binary_autoencoder.checkpoint import KIND, checkpoint_files, find_step
from binary_autoencoder.flags import (
    DEFAULT_LR,
    SIZES,
    TRAINING_PRESETS,
    add_architecture_flags,
    add_loss_flags,
    add_start_flags,
    architecture_of,
    loss_terms,
)
from binary_autoencoder.losses import VGG16_FILE, PerceptualLoss
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from binary_autoencoder.objective import AutoencoderLosses, LossTerms
from uad.checkpoints import told_images
from uad.cli.command import command_of
from uad.cli.data import (
    HEALTHY_VALIDATION,
    Opening,
    add_folder_flags,
    add_reading_flags,
    only_shown,
    opening_of,
    reading_of,
    ready,
)
from uad.cli.flags import Flags
from uad.cli.provenance import command_line
from uad.cli.runtime import add_runtime_flags
from uad.cli.training import Run, add_run_flags, add_variation_flags, run_of
from uad.data.reading.facts import facts_of
from uad.data.reading.folder import SliceFolder
from uad.data.reading.settings import Reading
from uad.data.training.draws import WithDraws
from uad.data.training.loading import TrainingImages, with_augmentation
from uad.distributed import World, distributed_world
from uad.imagenet import found_weights
from uad.optimizers import make_optimizer
from uad.pictures import save_rows
from uad.precision import autocast
from uad.run_lock import exclusive
from uad.training import Phase, Training

PICTURES = 8


@dataclass(frozen=True)
class Stage1:
    """Everything that the flags of stage 1 say.

    perceptual_weights: file of VGG-16 weights; disc_layers, ndf: of the discriminator; shows_ema: pictures and
    validation are of the EMA weights; load_dir, load_step, load_optim: the run to begin with.
    """

    device: str
    opening: Opening
    reading: Reading
    architecture: Architecture
    terms: LossTerms
    perceptual_weights: str | None
    disc_layers: int
    ndf: int
    run: Run
    shows_ema: bool
    load_dir: str | None
    load_step: str
    load_optim: bool


def get_args_parser() -> Flags:
    """All flags of stage 1."""
    parser = Flags(__doc__, preset=TRAINING_PRESETS, size=SIZES)
    add_folder_flags(parser, validation=HEALTHY_VALIDATION, training=True)
    add_reading_flags(parser)
    add_variation_flags(parser)
    add_architecture_flags(parser)
    add_loss_flags(parser)
    add_run_flags(parser, "logs/binaryae_<dataset>", DEFAULT_LR)
    add_start_flags(parser)
    add_runtime_flags(parser, compile=True)
    return parser


def stage1_of(args: argparse.Namespace) -> Stage1:
    """What the flags say, as plain values."""
    reading = reading_of(args)
    run = run_of(args, args.ema_beta, args.steps_per_update_ema)
    return Stage1(
        device=args.device,
        opening=opening_of(args),
        reading=reading,
        architecture=architecture_of(args, reading),
        terms=loss_terms(args),
        perceptual_weights=args.perceptual_weights,
        disc_layers=args.disc_layers,
        ndf=args.ndf,
        run=run.named(f"logs/binaryae_{reading.dataset}", args.base_lr * args.batch_size),
        shows_ema=args.ema,
        load_dir=args.load_dir,
        load_step=args.load_step,
        load_optim=args.load_optim,
    )


@torch.no_grad()
def save_pictures(path: Path, images: Tensor, network: BinaryAutoEncoder) -> None:
    """One row per image: every channel of the input, then of the reconstruction."""
    reconstruction = network(images, torch.full((len(images), *network.code_shape), 0.5, device=images.device))[0]
    save_rows(path, [*images.unbind(1), *reconstruction.unbind(1)])


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
    chosen = stage1_of(args)
    with distributed_world(chosen.device) as world:
        files = checkpoint_files(chosen.run.log_dir)
        run = chosen.run.on(world, [chosen.architecture.build()], files, KIND)
        world.share_of(run.options.batch_size)
        if not ready(chosen.opening, chosen.reading, world, run.options.batch_size, healthy=True):
            return
        if only_shown(chosen.opening, settings_of(chosen, run) | run.shown(), world):
            return
        with exclusive(run.log_dir, world) as lock:
            training = build(chosen, run, world, lock.check)
            steps = training.run()
        if world.is_main:
            print(f"Stage 1: {steps} of {run.options.train_steps} steps done; checkpoints in {training.files.folder}")


def build(chosen: Stage1, run: Run, world: World, check: Callable[[], None]) -> Training:
    """The run that the flags describe; check is called in every step."""
    options, reading = run.options, chosen.reading
    torch.manual_seed(options.seed)
    network = chosen.architecture.build().to(world.device)
    discriminator = Discriminator(reading.n_channels, chosen.ndf, chosen.disc_layers).to(world.device)
    perceptual = perceptual_loss(chosen, world)
    losses = AutoencoderLosses(chosen.terms, options.seed, world, network, discriminator, perceptual)
    folders = chosen.opening.folders
    slices = folders.open(reading)
    images = run.images(slices, world)
    pictured = torch.stack([images[i]["image"] for i in range(min(PICTURES, len(images)))])

    def shown_network(ema: nn.Module) -> BinaryAutoEncoder:
        return ema if chosen.shows_ema else network

    def sample(step: int, ema: nn.Module) -> None:
        path = run.log_dir / "images" / f"{step:07d}.png"
        with autocast(options.amp, world.device):
            save_pictures(path, pictured.to(world.device), shown_network(ema))

    evaluate = None
    if folders.val_dir:
        held_out = folders.open_validation(reading)

        def evaluate(_: int, ema: nn.Module) -> dict[str, float]:
            with autocast(options.amp, world.device):
                return validation_l1(held_out, shown_network(ema), world, options.batch_size)

    return Training(
        kind=KIND,
        world=world,
        options=options,
        log_dir=run.log_dir,
        files=checkpoint_files(run.log_dir),
        modules={"autoencoder": network, "discriminator": discriminator},
        averaged="autoencoder",
        phases=[
            Phase(
                "autoencoder",
                losses.wrapped_network,
                make_optimizer(network, run.lr, run.optimizer, run.weight_decay, options.amp),
                losses.autoencoder,
            ),
            Phase(
                "discriminator",
                losses.wrapped_discriminator,
                make_optimizer(discriminator, run.lr),
                losses.discriminate,
                first_step=chosen.terms.disc_start_step,
            ),
        ],
        dataset=WithDraws(TrainingImages(images, run.variation), losses.draws),
        config={
            "network": asdict(chosen.architecture),
            "data": asdict(reading),
            "facts": asdict(facts_of(slices, reading)),
        },
        settings=settings_of(chosen, run) | told_images(slices.names, slices.paths),
        prepare=with_augmentation,
        sample=sample,
        evaluate=evaluate,
        initial=initial_checkpoint(chosen),
        initial_optimizers=chosen.load_optim,
        check=check,
        command=command_line(),
    )


def perceptual_loss(chosen: Stage1, world: World) -> PerceptualLoss | None:
    """The perceptual distance where it has a weight and there are weights for its network."""
    if not chosen.terms.perceptual_weight:
        return None
    weights = found_weights(chosen.perceptual_weights, VGG16_FILE)
    if weights is None:
        if world.is_main:
            print("No VGG-16 weights in torch's hub cache and no --perceptual_weights: the perceptual weight is 0.")
        return None
    return PerceptualLoss(weights).to(world.device)


def initial_checkpoint(chosen: Stage1) -> Path | None:
    """The full checkpoint of the run to begin with, if one is named."""
    if chosen.load_dir is None:
        return None
    files = checkpoint_files(chosen.load_dir)
    return files.state_path(find_step(files.folder, files.steps(), "load_step", chosen.load_step))


def settings_of(chosen: Stage1, run: Run) -> dict:
    """What a rerun in the same folder must repeat, by the names of the flags."""
    own = {
        "ema_beta": run.options.ema_beta,
        "steps_per_update_ema": run.options.ema_every,
        "disc_layers": chosen.disc_layers,
        "ndf": chosen.ndf,
        "load_dir": chosen.load_dir,
        "load_step": chosen.load_step,
        "load_optim": chosen.load_optim,
    }
    return asdict(chosen.architecture) | asdict(chosen.reading) | asdict(chosen.terms) | run.settings() | own


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
