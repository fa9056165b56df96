"""Train one of the comparison methods, all its stages in order.

    python scripts/train_baseline.py --method anoddpm --dataset brats --data_dir data/brats/train_healthy --amp
Several GPUs: with torchrun, as for the main method. On a CPU: --size small.

Each method has its own defaults of --batch_size, --train_steps, --lr, --weight_decay and --clip_norm. Run the same
command again to continue, within a stage or with the next one. Written to --log_dir (default logs/<method>_<dataset>),
a folder per stage: <method>_<stage>_<step>.pt (all that resuming needs), ema_<method>_<stage>_<step>.pt (weights for
detection), log.jsonl, and, for the last stage, images/ with input, reconstruction and anomaly map in a row;
slices-<hash>/ holds the decoded training images, see --cache_dir, and may be deleted when no run uses it.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import ModuleType

import torch
from torch import nn

from baselines.checkpoints import checkpoint_files, default_log_dir, kind
from baselines.fitting import amp_of_fit, fit_stage
from baselines.flags import FROM_METHOD, add_method_flag, add_method_training_flags, given_parts
from baselines.methods import load_method
from baselines.parts import part_of, with_parts
from baselines.stages import StageLoss, evaluator, picture_maker, shuffled_images
from uad.checkpoints import newest_state, told_images
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
from uad.cli.flags import Flags, require
from uad.cli.provenance import command_line
from uad.cli.runtime import add_runtime_flags, precision_of
from uad.cli.training import Run, add_run_flags, add_variation_flags, run_of
from uad.configuration import check_values
from uad.data.reading.facts import contrast_of_training
from uad.data.reading.folder import SliceFolder
from uad.data.reading.settings import Reading
from uad.data.training.loading import TrainingImages, with_augmentation
from uad.distributed import World, distributed_world
from uad.optimizers import make_optimizer
from uad.run_lock import exclusive
from uad.training import Phase, Training
from uad.weights import weights_hash

# Networks of the methods' papers, or small ones for two cores.
SIZES = {"paper": {"img_size": 256}, "small": {"img_size": 128}}
# What a stage's training takes from the method's configuration where no flag says otherwise.
CHOSEN = ("lr", "batch_size", "train_steps", "clip_norm", "weight_decay")
# Flags that mean nothing to a method that is fitted at once.
OF_STEPS = (
    "lr", "train_steps", "clip_norm", "weight_decay", "optimizer", "lr_anneal_steps", "microbatch", "compile",
    "steps_per_log", "steps_per_checkpoint", "steps_per_save_output", "steps_per_eval", "val_dir", "keep", "keep_every",
    "tensorboard", "augment", "horizontal_flip",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """Everything that the flags say.

    chosen: what was given of CHOSEN, None for the method's own; anneals_all: learning rates fall over all steps of a
    stage; noise: what was given of the simplex noise; parts: of a backbone and a memory; of_steps: what of OF_STEPS is
    not the default.
    """

    method: str
    size: str
    device: str
    opening: Opening
    reading: Reading
    run: Run
    chosen: dict
    vqvae_steps: int | None
    anneals_all: bool
    noise: dict
    parts: dict
    of_steps: dict


def get_args_parser() -> Flags:
    """All flags of a comparing method's training."""
    parser = Flags(__doc__, size=SIZES)
    add_method_flag(parser)
    add_method_training_flags(parser)
    add_folder_flags(parser, validation=HEALTHY_VALIDATION, training=True)
    add_reading_flags(parser)
    add_variation_flags(parser)
    add_run_flags(parser, "logs/<method>_<dataset>", FROM_METHOD, decays=True, deferred=FROM_METHOD)
    add_runtime_flags(parser, compile=True)
    return parser


def request_of(args: argparse.Namespace) -> Request:
    """What the flags say, as plain values; how long a stage is trained is filled in by `run_of_stage`."""
    require(args, "method")
    reading = reading_of(args)
    run = run_of(args, ema_beta=0.0, ema_every=1)
    noise = {"standardise": True} if args.standardise_noise else {}
    defaults = get_args_parser()
    return Request(
        method=args.method,
        size=args.size,
        device=args.device,
        opening=opening_of(args),
        reading=reading,
        run=replace(run, log_dir=run.log_dir or default_log_dir(args.method, reading.dataset)),
        chosen={name: getattr(args, name) for name in CHOSEN},
        vqvae_steps=args.vqvae_steps,
        anneals_all=args.lr_anneal_steps == "all",
        noise=noise | ({"source": args.noise_source} if args.noise_source else {}),
        parts=given_parts(args),
        of_steps={name: getattr(args, name) for name in OF_STEPS if getattr(args, name) != defaults.get_default(name)},
    )


def main(args: argparse.Namespace) -> None:
    """Check the data, then train."""
    request = request_of(args)
    method = load_method(request.method)
    config = chosen_configuration(request, method)
    with distributed_world(request.device) as world:
        runs = runs_of(request, config, method, world)
        batches = [run.options.batch_size for run in runs.values()]
        for batch_size in batches:
            world.share_of(batch_size)
        if not ready(request.opening, request.reading, world, max(batches), healthy=True):
            return
        if world.is_main and len(runs) > 1:
            print(stages_in_words(request, runs))
        settings = {stage: settings_of(request, run, config, {}) | run.shown() for stage, run in runs.items()}
        if only_shown(request.opening, settings, world):
            return
        with exclusive(request.run.log_dir, world) as lock:
            if is_fitted(method):
                fit(request, runs, world, method, config)
            else:
                train(request, runs, world, method, config, lock.check)


def is_fitted(method: ModuleType) -> bool:
    """Whether a method is fitted at once, and not trained by steps."""
    return hasattr(method, "fit")


def runs_of(request: Request, config: dict, method: ModuleType, world: World) -> dict[str, Run]:
    """The run of each stage, in the precision that it began with, else the one that its own network is faster in."""
    modules, runs = method.build(config), {}
    for stage in method.STAGES:
        run, files = run_of_stage(request, config, stage), checkpoint_files(request.run.log_dir, method.NAME, stage)
        if is_fitted(method):
            amp = precision_of(run.options.amp, world, [modules[stage]], begun=amp_of_fit(files))
            runs[stage] = run.in_precision(amp)
        else:
            runs[stage] = run.on(world, [modules[stage]], files, kind(method.NAME, stage))
    return runs


def stages_in_words(request: Request, runs: dict[str, Run]) -> str:
    """How long each stage is trained, and the flag that says so: none says it of all."""
    told = []
    for stage, run in runs.items():
        flag, given = steps_flag(request, stage)
        source = flag if given is not None else f"{flag} not given: {FROM_METHOD}"
        told.append(f"{stage} {run.options.train_steps:,} steps ({source})")
    return f"{request.method} is trained in stages: {', then '.join(told)}"


def steps_flag(request: Request, stage: str) -> tuple[str, int | None]:
    """The flag that sets how long a stage is trained, and its value, None where it was not given."""
    if stage == "vqvae":
        return "--vqvae_steps", request.vqvae_steps
    return "--train_steps", request.chosen["train_steps"]


def chosen_configuration(request: Request, method: ModuleType) -> dict:
    """The size's configuration for these images, with the method's own training flags.

    Raises InputError for flags that the method does not have.
    """
    config = method.configuration(request.reading.img_size, request.reading.n_channels, request.size)
    parts = request.parts
    checks = [
        ("--vqvae_steps", request.vqvae_steps, "an autoencoder to train", "vqvae" in method.STAGES),
        ("--standardise_noise", request.noise.get("standardise"), "simplex noise", "noise" in config),
        ("--noise_source", request.noise.get("source"), "simplex noise", "noise" in config),
    ]
    checks += [(f"--{name}", value, name.replace("_", " "), part_of(name) in config) for name, value in parts.items()]
    by_steps = not is_fitted(method)
    checks += [(f"--{name}", value, "a training by steps", by_steps) for name, value in request.of_steps.items()]
    check_values(
        (flag, f"{value}, with --method {request.method}", f"a method that has {what}", has)
        for flag, value, what, has in checks
        if value is not None
    )
    config |= {"noise": config["noise"] | request.noise} if request.noise else {}
    return with_parts(config, parts)


def run_of_stage(request: Request, config: dict, stage: str) -> Run:
    """The run with the method's training defaults for this stage where a flag was not given."""
    defaults = config["training"][stage]
    given = request.chosen | {"train_steps": steps_flag(request, stage)[1]}
    chosen = {name: defaults[name] if value is None else value for name, value in given.items()}
    options = replace(
        request.run.options,
        batch_size=chosen["batch_size"],
        train_steps=chosen["train_steps"],
        clip_norm=chosen["clip_norm"],
        ema_beta=defaults["ema_beta"],
        lr_anneal_steps=chosen["train_steps"] if request.anneals_all else request.run.options.lr_anneal_steps,
    )
    return replace(request.run, options=options, lr=chosen["lr"], weight_decay=chosen["weight_decay"])


def train(
    request: Request,
    runs: dict[str, Run],
    world: World,
    method: ModuleType,
    config: dict,
    check: Callable[[], None],
) -> None:
    """Train the stages in order; end where one is interrupted. check is called in every step."""
    torch.manual_seed(request.run.options.seed)
    modules = {stage: module.to(world.device) for stage, module in method.build(config).items()}
    earlier: dict[str, dict] = {}
    for stage, run in runs.items():
        training = stage_training(request, run, world, method, stage, config, modules, earlier, check)
        steps = training.run()
        wanted = run.options.train_steps
        if world.is_main:
            folder = training.files.folder
            print(f"{method.NAME}, {stage}: {steps} of {wanted} steps done; checkpoints in {folder}")
        if steps < wanted:
            return
        config = training.config["method"]
        weights = training.ema.module.state_dict()
        modules[stage].load_state_dict(weights)
        modules[stage].eval().requires_grad_(False)
        earlier[stage] = {"file": training.files.ema_path(steps).name, "weights_hash": weights_hash(weights)}


def fit(request: Request, runs: dict[str, Run], world: World, method: ModuleType, config: dict) -> None:
    """Fit the only stage of a method that is not trained by steps, on the main process, unless it is done."""
    ((stage, run),) = runs.items()
    folder = request.opening.folders.open(request.reading)
    slices = run.images(folder, world, once=True)
    facts = {
        **data_of(request.reading, folder),
        "settings": settings_of(request, run, config, {}) | told_images(folder.names, folder.paths),
        "command": command_line(),
    }
    world.on_main(
        lambda: fit_stage(
            method,
            config,
            {name: module.to(world.device) for name, module in method.build(config).items()},
            lambda: shuffled_images(run.options, slices, world),
            world.device,
            run.options.amp,
            checkpoint_files(run.log_dir, method.NAME, stage),
            facts,
        )
    )
    if world.is_main:
        print(f"{method.NAME}, {stage}: fitted; checkpoint in {run.log_dir / stage}")


def stage_training(
    request: Request,
    run: Run,
    world: World,
    method: ModuleType,
    stage: str,
    config: dict,
    modules: dict[str, nn.Module],
    earlier: dict[str, dict],
    check: Callable[[], None],
) -> Training:
    """The run of one stage; what is calibrated before it is taken from its checkpoint where it has begun already."""
    files = checkpoint_files(run.log_dir, method.NAME, stage)
    options, folders = run.options, request.opening.folders
    folder = folders.open(request.reading)
    slices = run.images(folder, world)
    settings = settings_of(request, run, config, earlier) | told_images(folder.names, folder.paths)
    begun, _ = newest_state(files, world, kind(method.NAME, stage))
    if begun is None:
        if hasattr(method, "calibrate"):
            images = shuffled_images(options, slices, world)
            config = config | method.calibrate(stage, config, modules, images, world.device)
    else:
        config = begun["config"]["method"]
    loss = StageLoss(method, stage, config, modules, world, options.seed)
    sample = None
    if stage == method.STAGES[-1]:
        channel = request.reading.display_channel
        sample = picture_maker(method, config, modules, slices, world, options.amp, files.folder, channel)
    return Training(
        kind=kind(method.NAME, stage),
        world=world,
        options=options,
        log_dir=files.folder,
        files=files,
        modules={stage: modules[stage]},
        averaged=stage,
        phases=[
            Phase(
                stage,
                loss.network,
                make_optimizer(modules[stage], run.lr, run.optimizer, run.weight_decay, options.amp),
                loss,
            )
        ],
        dataset=TrainingImages(slices, run.variation),
        prepare=with_augmentation,
        config={"method": config, "earlier": dict(earlier), **data_of(request.reading, folder)},
        settings=settings,
        former=former_settings,
        sample=sample,
        evaluate=evaluator(options, loss, folders.open_validation(request.reading)) if folders.val_dir else None,
        check=check,
        command=command_line(),
    )


def data_of(reading: Reading, folder: SliceFolder) -> dict:
    """What a checkpoint keeps of the training images: how they were read, and their contrast."""
    return {"data": asdict(reading), "contrast": contrast_of_training(folder, reading)}


def settings_of(request: Request, run: Run, config: dict, earlier: dict) -> dict:
    """What a rerun in the same folder must repeat, by the names of the flags."""
    shape = {key: value for key, value in config.items() if key not in ("training", "detection")}
    stages = {f"{stage} weights": of["weights_hash"] for stage, of in earlier.items()}
    own = {
        "method": request.method,
        "size": request.size,
        "ema_beta": run.options.ema_beta,
        "weight_decay": run.weight_decay,
    }
    return shape | asdict(request.reading) | stages | run.settings() | own


def former_settings(saved: dict) -> dict:
    """The settings of a run of an earlier version, by today's names."""
    if "preset" not in saved:
        return saved
    size = "small" if saved["preset"] == "cpu" else saved["preset"]
    return {name: value for name, value in saved.items() if name != "preset"} | {"size": size}


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
