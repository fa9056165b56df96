"""Train one of the methods that the masked Bernoulli diffusion is compared with, all its stages in order.

    python scripts/train_baseline.py --method anoddpm --dataset brats --data_dir data/brats/train_healthy --amp
Several GPUs: with torchrun, as for the main method. On a CPU: --preset cpu --img_size 128.

--batch_size, --train_steps, --lr, --weight_decay and --clip_norm are by default those of the method. Running the same
command again continues within a stage or with the next one. Written to --log_dir (default logs/<method>_<dataset>), a
folder per stage: <method>_<stage>_<step>.pt (all that resuming needs), ema_<method>_<stage>_<step>.pt (weights for
detection), log.jsonl, and, for the last stage, images/ with input, reconstruction and anomaly map in a row.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision.utils import save_image

from baselines.checkpoints import checkpoint_files, default_log_dir, kind
from baselines.flags import FROM_METHOD, add_method_flag, add_method_training_flags
from baselines.methods import load_method
from uad.checkpoints import newest_state, weights_hash
from uad.cli.command import run_command
from uad.cli.flags import (
    DISPLAY_CHANNEL,
    Flags,
    add_shared_flags,
    reading_of,
    require,
    train_options,
    variation_of,
)
from uad.configuration import check_values
from uad.data.reading.folder import SliceFolder, collate_slices
from uad.data.reading.opening import check_once, open_slices
from uad.data.training.loading import TrainingImages, collate_training
from uad.distributed import World, distributed_world
from uad.files import written_whole
from uad.optimizers import make_optimizer
from uad.precision import autocast, resolve_amp
from uad.randomness import keyed_generator
from uad.training import Losses, Phase, Training

PICTURES = 4


def get_args_parser() -> argparse.ArgumentParser:
    """All flags of a comparing method's training."""
    parser = Flags(__doc__)
    add_method_flag(parser)
    add_method_training_flags(parser)
    add_shared_flags(parser, deferred=FROM_METHOD)
    return parser


class StageLoss:
    """The one phase of a stage's training step; an image's randomness is keyed by its position in the stream."""

    def __init__(self, method: ModuleType, stage: str, config: dict, modules: dict[str, nn.Module], world: World, seed):
        self.method, self.stage, self.config, self.modules = method, stage, config, modules
        self.network = world.wrap(modules[stage])
        self.seed, self.device = seed, world.device

    def __call__(self, batch: dict, step: int) -> Losses:
        positions = batch["position"].tolist()
        generators = [keyed_generator(self.seed, self.stage, p, device=self.device) for p in positions]
        return self.method.loss(self.stage, self.config, self.modules, self.network, batch, generators)


def main(args: argparse.Namespace) -> None:
    """Check the data, then train."""
    require(args, "method")
    method = load_method(args.method)
    data = reading_of(args)
    config = chosen_configuration(args, method, data)
    with distributed_world(args.device) as world:
        of_stage = {stage: stage_arguments(args, config, stage) for stage in method.STAGES}
        largest = max(chosen.batch_size for chosen in of_stage.values())
        for chosen in of_stage.values():
            world.share_of(chosen.batch_size)
        summaries = check_once(args, data, largest, healthy=True, world=world)
        if world.is_main:
            print("\n".join(summaries))
        if not args.check_data:
            train(of_stage, world, method, config, data)


def chosen_configuration(args: argparse.Namespace, method: ModuleType, data: dict) -> dict:
    """The preset's configuration for these images, with the method's own training flags.

    Raises InputError for flags that the method does not have.
    """
    config = method.configuration(data["img_size"], data["n_channels"], args.preset)
    checks = (
        ("--vqvae_steps", args.vqvae_steps, "an autoencoder to train", "vqvae" in method.STAGES),
        ("--standardise_noise", args.standardise_noise, "simplex noise", "noise" in config),
        ("--noise_source", args.noise_source, "simplex noise", "noise" in config),
    )
    check_values(
        (flag, f"{value}, with --method {args.method}", f"a method that has {what}", has)
        for flag, value, what, has in checks
        if value
    )
    noise = {"standardise": True} if args.standardise_noise else {}
    noise |= {"source": args.noise_source} if args.noise_source else {}
    return config | {"noise": config["noise"] | noise} if noise else config


def stage_arguments(args: argparse.Namespace, config: dict, stage: str) -> argparse.Namespace:
    """The flags with the method's training defaults for this stage where a flag was not given."""
    defaults = config["training"][stage]
    given = {name: getattr(args, name) for name in ("lr", "batch_size", "train_steps", "clip_norm", "weight_decay")}
    if stage == "vqvae":
        given["train_steps"] = args.vqvae_steps
    chosen = {name: defaults[name] if value is None else value for name, value in given.items()}
    return argparse.Namespace(
        **vars(args) | chosen | {"ema_beta": defaults["ema_beta"], "log_dir": default_log_dir(args)}
    )


def train(of_stage: dict[str, argparse.Namespace], world: World, method: ModuleType, config: dict, data: dict) -> None:
    """Train the stages in order; end where one is interrupted."""
    torch.manual_seed(next(iter(of_stage.values())).seed)
    modules = {stage: module.to(world.device) for stage, module in method.build(config).items()}
    earlier: dict[str, dict] = {}
    for stage, args in of_stage.items():
        training = stage_training(args, world, method, stage, config, data, modules, earlier)
        steps = training.run()
        if world.is_main:
            folder = training.files.folder
            print(f"{method.NAME}, {stage}: {steps} of {args.train_steps} steps done; checkpoints in {folder}")
        if steps < args.train_steps:
            return
        config = training.config["method"]
        weights = training.ema.module.state_dict()
        modules[stage].load_state_dict(weights)
        modules[stage].eval().requires_grad_(False)
        earlier[stage] = {"file": training.files.ema_path(steps).name, "weights_hash": weights_hash(weights)}


def stage_training(
    args: argparse.Namespace,
    world: World,
    method: ModuleType,
    stage: str,
    config: dict,
    data: dict,
    modules: dict[str, nn.Module],
    earlier: dict[str, dict],
) -> Training:
    """The run of one stage; what is calibrated before it is taken from its checkpoint where it has begun already."""
    files = checkpoint_files(args.log_dir, method.NAME, stage)
    amp = resolve_amp(args.amp, world.device)
    slices = open_slices(args, data, args.data_dir)
    settings = settings_of(args, config, data, earlier, amp, len(slices))
    begun, _ = newest_state(files, world, kind(method.NAME, stage))
    if begun is None:
        images = shuffled_images(args, slices, world)
        config = config | method.calibrate(stage, config, modules, images, world.device)
    else:
        config = begun["config"]["method"]
    loss = StageLoss(method, stage, config, modules, world, args.seed)
    optimizer = make_optimizer(modules[stage], args.lr, args.optimizer, args.matrix_lr, args.weight_decay, amp)
    is_last = stage == method.STAGES[-1]
    return Training(
        kind=kind(method.NAME, stage),
        world=world,
        options=train_options(args, amp, args.ema_beta, 1),
        log_dir=files.folder,
        files=files,
        modules={stage: modules[stage]},
        averaged=stage,
        phases=[Phase(stage, loss.network, optimizer, loss)],
        dataset=TrainingImages(slices, variation_of(args), 0 if args.workers else args.cache_gib),
        collate=collate_training,
        config={"method": config, "data": data, "preset": args.preset, "earlier": dict(earlier)},
        settings=settings,
        sample=picture_maker(args, method, config, modules, slices, world, amp, files.folder) if is_last else None,
        evaluate=evaluator(args, loss, data, amp) if args.val_dir else None,
    )


def settings_of(args: argparse.Namespace, config: dict, data: dict, earlier: dict, amp: str, images: int) -> dict:
    """What a rerun in the same folder must repeat."""
    names = ("method", "preset", "batch_size", "lr", "clip_norm", "weight_decay", "lr_anneal_steps", "ema_beta", "seed",
             "compile", "horizontal_flip", "augment", "optimizer", "matrix_lr")  # fmt: skip
    shape = {key: value for key, value in config.items() if key not in ("training", "detection")}
    stages = {f"{stage} weights": of["weights_hash"] for stage, of in earlier.items()}
    return shape | data | stages | {name: getattr(args, name) for name in names} | {"amp": amp, "images": images}


def shuffled_images(args: argparse.Namespace, slices: SliceFolder, world: World) -> Iterator[Tensor]:
    """All images once, in an order that depends on the seed alone, as batches on the device."""
    order = torch.randperm(len(slices), generator=keyed_generator(args.seed, "calibration")).tolist()
    size = world.share_of(args.batch_size)
    loader = DataLoader(Subset(slices, order), size, num_workers=args.workers, collate_fn=collate_slices)
    return (batch["image"].to(world.device) for batch in loader)


def evaluator(args: argparse.Namespace, loss: StageLoss, data: dict, amp: str):
    """The mean loss over --val_dir, with the same randomness for an image every time."""
    slices = open_slices(args, data, args.val_dir)

    @torch.no_grad()
    def evaluate(ema: nn.Module) -> dict[str, float]:
        ema.eval()
        total = 0.0
        for batch in DataLoader(slices, args.batch_size, num_workers=args.workers, collate_fn=collate_slices):
            images = batch["image"].to(loss.device)
            generators = [keyed_generator("evaluation", name, device=loss.device) for name in batch["name"]]
            with autocast(amp, loss.device):
                value, _ = loss.method.loss(
                    loss.stage, loss.config, loss.modules, ema, batch | {"image": images}, generators
                )
            total += float(value) * len(images)
        return {"val_loss": total / len(slices)}

    return evaluate


def picture_maker(args, method: ModuleType, config, modules, slices: SliceFolder, world: World, amp, folder: Path):
    """Saves a grid: input, reconstruction and anomaly map of some training images, one image channel."""
    channel = DISPLAY_CHANNEL.get(args.dataset, 0)

    def sample(step: int, ema: nn.Module) -> None:
        images = torch.stack([slices[i]["image"] for i in range(min(PICTURES, len(slices)))]).to(world.device)
        networks = modules | {method.STAGES[-1]: ema.eval()}
        detector = method.Detector(config, networks, config["detection"], amp)
        if detector.needs_healthy:
            detector.take_threshold(detector.healthy_values(images, range(len(images))))
        generators = [keyed_generator("pictures", i, device=world.device) for i in range(len(images))]
        result = detector.reconstruct(images, generators)
        maps = result.anomaly_map / result.anomaly_map.amax().clamp_min(1e-12)
        grid = torch.stack([images[:, channel], result.image[:, channel], maps], dim=1).clamp(0, 1)
        with written_whole(folder / "images" / f"{step:07d}.png") as temporary:
            save_image(grid.flatten(0, 1)[:, None].cpu(), temporary, nrow=3, padding=1)

    return sample


if __name__ == "__main__":
    run_command(lambda: main(get_args_parser().parse_args()))
