"""Stage 2: train the Bernoulli diffusion model on the codes of healthy images.

One process (CPU or one GPU):
    python scripts/latent_train.py --dataset brats --data_dir data/brats/train_healthy \\
        --ae_load_dir logs/binaryae_brats --ae_load_step latest --amp
Several GPUs, one or more machines: as stage 1, with torchrun or torch.distributed.launch --use_env.

The autoencoder's architecture and the way images are read come from its checkpoint. --batch_size is the global one.
Running the same command again continues from the newest checkpoint. Written to --log_dir (default
<ae_load_dir>/bernoulli_diffusion, where inference looks for it): bld<step>.pt (all that resuming needs),
emabld<rate>_<step>.pt (weights for inference), log.jsonl, images/, codes-*.npy.

log.jsonl's `ratio` is the loss over the entropy of the noise: 1 means that nothing was learned; ratio_q1..q4 are the
same for the quarters of the noise levels, weakest noise first.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.utils import save_image

from bernoulli_diffusion.detect import masked_denoise
from bernoulli_diffusion.flags import (
    TRAINING_PRESETS,
    add_diffusion_flags,
    network_config,
    process_config,
    trained_levels,
    views_of,
)
from bernoulli_diffusion.latents import CodeCache, LiveViews, build_cache, cache_path
from bernoulli_diffusion.model import KIND, build_network, checkpoint_files, default_log_dir
from bernoulli_diffusion.objective import DiffusionLoss
from bernoulli_diffusion.process import BernoulliDiffusion
from binary_autoencoder.checkpoint import TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags
from uad.cli.command import run_command
from uad.cli.flags import DISPLAY_CHANNEL, Flags, add_shared_flags, train_options
from uad.data.reading.folder import SliceFolder
from uad.data.reading.opening import check_once, open_slices
from uad.data.training.loading import collate_training
from uad.distributed import World, distributed_world
from uad.files import written_whole
from uad.optimizers import make_optimizer
from uad.precision import autocast, prepare_inference, resolve_amp
from uad.randomness import keyed_generator, uniform_field
from uad.training import Phase, Training

PICTURES = 8
PICTURE_STEPS = 10


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of stage 2."""
    parser = Flags(__doc__, TRAINING_PRESETS)
    add_shared_flags(parser)
    add_autoencoder_flags(parser)
    add_diffusion_flags(parser)
    return parser


def image_encoder(args: argparse.Namespace, autoencoder: TrainedAutoencoder, world: World, amp: str):
    """images, stream positions -> bits, thresholded or drawn as --code_bits says."""
    network = autoencoder.network

    @torch.no_grad()
    def encode(images: Tensor, positions: list[int] | None = None) -> Tensor:
        with autocast(amp, world.device):
            probability = network.encode(images)
        if args.code_bits != "sample":
            return (probability > 0.5).float()
        generators = [keyed_generator(args.seed, "code", p, device=world.device) for p in positions]
        return (uniform_field(generators, network.code_shape) < probability).float()

    return encode


@torch.no_grad()
def save_pictures(
    path: Path, images: Tensor, code: Tensor, autoencoder, network, process, noise_level, channel
) -> None:
    """One row per image: input, autoencoder, noised to L, unmasked denoising in a few steps; one image channel."""
    device = images.device
    generators = [keyed_generator("pictures", i, device=device) for i in range(len(images))]
    level = torch.full((len(images),), noise_level, device=device)
    noisy = process.q_sample(code, level, uniform_field(generators, code.shape[1:]))
    steps = min(PICTURE_STEPS, noise_level)
    denoised = masked_denoise(network, code, process, generators, noise_level, 0.0, steps).code
    columns = [images, *(autoencoder.decode(z).float() for z in (code, noisy, denoised))]
    grid = torch.stack([column[:, channel] for column in columns], dim=1).clamp(0, 1)
    with written_whole(path) as temporary:
        save_image(grid.flatten(0, 1)[:, None].cpu(), temporary, nrow=len(columns), padding=1)


def main(args: argparse.Namespace) -> None:
    """Check the data and the autoencoder, then train."""
    with distributed_world(args.device) as world:
        autoencoder = load_autoencoder(args)
        process = process_config(args)
        config = {
            "process": process,
            "network": network_config(args, autoencoder.network.code_shape),
            "code_bits": args.code_bits or "threshold",
            "autoencoder": {
                "path": str(autoencoder.path),
                "step": autoencoder.step,
                "weights_hash": autoencoder.weights_hash,
            },
            "data": autoencoder.data,
            "lesion_share": args.lesion_share,
            "lesions": args.lesions,
            "trained_levels": trained_levels(args, process["diffusion_steps"]),
        }
        world.share_of(args.batch_size)
        summaries = check_once(args, autoencoder.data, args.batch_size, healthy=True, world=world)
        if world.is_main:
            print("\n".join(summaries))
        if args.check_data:
            return
        training = build(args, world, autoencoder, config)
        steps = training.run()
        if world.is_main:
            print(f"Stage 2: {steps} of {args.train_steps} steps done; checkpoints in {training.files.folder}")


def build(args: argparse.Namespace, world: World, autoencoder: TrainedAutoencoder, config: dict) -> Training:
    """The run that the flags describe."""
    log_dir = Path(args.log_dir or default_log_dir(args.ae_load_dir))
    amp = resolve_amp(args.amp, world.device)
    prepare_inference(autoencoder.network.to(world.device), amp)
    process = BernoulliDiffusion(**config["process"])
    torch.manual_seed(args.seed)
    network = build_network(config["network"], process).to(world.device)
    encode = image_encoder(args, autoencoder, world, amp)
    slices = open_slices(args, autoencoder.data, args.data_dir)
    loss = DiffusionLoss(world, network, process, encode, args.seed, config["trained_levels"])
    lr = args.lr or 1e-4
    optimizer = make_optimizer(network, lr, args.optimizer, args.matrix_lr, args.weight_decay, amp)

    pictured = torch.stack([slices[i]["image"] for i in range(min(PICTURES, len(slices)))])

    def sample(step: int, ema: nn.Module) -> None:
        images = pictured.to(world.device)
        channel = DISPLAY_CHANNEL.get(autoencoder.data["dataset"], 0)
        codes = encode(images, list(range(len(images))))
        path = log_dir / "images" / f"{step:07d}.png"
        with autocast(amp, world.device):
            save_pictures(path, images, codes, autoencoder.network, ema, process, args.noise_level, channel)

    return Training(
        kind=KIND,
        world=world,
        options=train_options(args, amp, args.ema_rate, 1),
        log_dir=log_dir,
        files=checkpoint_files(log_dir, args.ema_rate),
        modules={"unet": network},
        averaged="unet",
        phases=[Phase("unet", loss.network, optimizer, loss)],
        dataset=training_codes(args, world, autoencoder, slices, encode, log_dir),
        collate=collate_training,
        config=config,
        settings=settings_of(args, config, amp, lr, len(slices)),
        sample=sample,
        initial=Path(args.resume_checkpoint) if args.resume_checkpoint else None,
    )


def training_codes(args, world: World, autoencoder: TrainedAutoencoder, slices: SliceFolder, encode, log_dir: Path):
    """The data set of the run: cached codes, or images for every step to encode (--no_code_cache, or sampled bits)."""
    views = views_of(args, len(slices))
    if args.no_code_cache or args.code_bits == "sample":
        return LiveViews(slices, views)
    code_shape = autoencoder.network.code_shape
    path = cache_path(log_dir, slices, autoencoder.weights_hash, views)
    share = world.share_of(args.batch_size)
    build_cache(path, slices, encode, code_shape, views, world, share, args.workers)
    return CodeCache(path, slices, code_shape, views)


def settings_of(args: argparse.Namespace, config: dict, amp: str, lr: float, images: int) -> dict:
    """What a rerun in the same folder must repeat."""
    names = (
        "batch_size", "seed", "compile", "horizontal_flip", "clip_norm", "lr_anneal_steps", "weight_decay", "ema_rate",
        "schedule_sampler", "noise_level", "no_code_cache", "resume_checkpoint", "augment", "lesion_share",
        "lesions", "code_views", "optimizer", "matrix_lr",
    )  # fmt: skip
    chosen = {name: getattr(args, name) for name in names} | {"amp": amp, "lr": lr, "images": images}
    autoencoder = {"autoencoder weights": config["autoencoder"]["weights_hash"], "code_bits": config["code_bits"]}
    return config["network"] | config["process"] | config["data"] | autoencoder | chosen


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
