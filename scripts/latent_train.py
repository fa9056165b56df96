"""Stage 2: train the Bernoulli diffusion model on the codes of healthy images.

One process (CPU or one GPU):
    python scripts/latent_train.py --dataset brats --data_dir data/brats/train_healthy \\
        --ae_load_dir logs/binaryae_brats --ae_load_step latest --amp
Several GPUs, one or more machines: as stage 1, with torchrun or torch.distributed.launch --use_env. In minutes on a
CPU: --size small.

The autoencoder's architecture and the way images are read come from its checkpoint. --batch_size is the total over all
processes. Run the same command again to continue from the newest checkpoint. Written to --log_dir (default
<ae_load_dir>/bernoulli_diffusion, where inference looks for it): bld<step>.pt (all that resuming needs),
emabld<rate>_<step>.pt (weights for inference), log.jsonl, images/, codes-*/. Decoded images are read
from the cache of stage 1, if there is one, see --cache_dir.

With --val_dir, detection by the EMA weights is scored every --steps_per_eval steps on a few of its images: val_ap and
val_image_auroc in log.jsonl, their curve in validation.png, best.json and best_<step>.pt, the weights with the highest
AP.

In log.jsonl, `ratio` is the loss divided by the entropy of the noise; 1 means that nothing was learned. ratio_q1..q4
are the same for the quarters of the noise levels, weakest noise first.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bernoulli_diffusion.architecture import Model, model_for
from bernoulli_diffusion.codes import CodeFiles, cached_codes
from bernoulli_diffusion.detect import masked_denoise
from bernoulli_diffusion.flags import (
    SIZES,
    TRAINING_PRESETS,
    CodeTraining,
    add_code_training_flags,
    add_model_flags,
    code_training_of,
    renaming_notice,
    stated_model,
)
from bernoulli_diffusion.held_out import held_out_images
from bernoulli_diffusion.latents import LiveViews
from bernoulli_diffusion.method import Detection
from bernoulli_diffusion.model import KIND, checkpoint_files, default_log_dir
from bernoulli_diffusion.objective import DiffusionLoss
from bernoulli_diffusion.validation import Judging, Validation, validating_detection
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from binary_autoencoder.flags import add_autoencoder_flags, autoencoder_source
from uad.best import best_in_words
from uad.checkpoints import told_images
from uad.cli.command import command_of
from uad.cli.data import Opening, add_folder_flags, only_shown, opening_of, ready
from uad.cli.flags import Flags
from uad.cli.provenance import command_line
from uad.cli.runtime import add_runtime_flags, graphs_of
from uad.cli.training import Run, add_run_flags, add_variation_flags, run_of
from uad.data.reading.folder import SliceFolder
from uad.data.training.draws import WithDraws
from uad.distributed import World, distributed_world
from uad.errors import input_error
from uad.optimizers import make_optimizer
from uad.pictures import save_rows
from uad.precision import autocast, prepare_inference
from uad.randomness import keyed_generator, uniform_field
from uad.run_lock import exclusive
from uad.train_options import TrainOptions
from uad.training import Phase, Training

LR = SIZES["paper"]["lr"]
PICTURES = 8
# Pictures show the paper's noise level, or the highest one that is trained.
PICTURE_LEVEL, PICTURE_STEPS = 200, 10
VALIDATION = (
    "folder of slices of other patients; detection is scored on a few of them every --steps_per_eval steps, by their "
    "masks if some have lesions, else with synthetic lesions; see docs/COMMANDS.md"
)


@dataclass(frozen=True)
class Stage2:
    """Everything that the flags of stage 2 say.

    stated: arguments of the model; detection: by which the training is judged; resume_checkpoint: the checkpoint to
    begin with; notice: what to tell the user.
    """

    device: str
    opening: Opening
    source: AutoencoderSource
    stated: dict
    codes: CodeTraining
    detection: Detection
    run: Run
    cuda_graphs: bool
    resume_checkpoint: str | None
    notice: str | None


def get_args_parser() -> Flags:
    """All flags of stage 2."""
    parser = Flags(__doc__, preset=TRAINING_PRESETS, size=SIZES)
    add_folder_flags(parser, validation=VALIDATION, training=True)
    add_variation_flags(parser)
    add_model_flags(parser)
    add_code_training_flags(parser)
    add_run_flags(parser, "<ae_load_dir>/bernoulli_diffusion", str(LR), decays=True)
    add_runtime_flags(parser, compile=True, cuda_graphs=True)
    add_autoencoder_flags(parser)
    return parser


def stage2_of(args: argparse.Namespace) -> Stage2:
    """What the flags say, as plain values."""
    run = run_of(args, args.ema_rate, 1)
    return Stage2(
        device=args.device,
        opening=opening_of(args, val_lesions=True),
        source=autoencoder_source(args),
        stated=stated_model(args) | {"dropout": args.dropout},
        codes=code_training_of(args),
        detection=validating_detection(args.preset),
        run=run.named(str(default_log_dir(args.ae_load_dir or "")), LR),
        cuda_graphs=graphs_of(args),
        resume_checkpoint=args.resume_checkpoint,
        notice=renaming_notice(args),
    )


def image_encoder(code_bits: str, seed: int, autoencoder: TrainedAutoencoder, world: World, amp: str):
    """images, stream positions -> bits, thresholded or drawn as code_bits says."""
    network = autoencoder.network

    @torch.no_grad()
    def encode(images: Tensor, positions: list[int] | None = None) -> Tensor:
        with autocast(amp, world.device):
            probability = network.encode(images)
        if code_bits != "sample":
            return (probability > 0.5).float()
        generators = [keyed_generator(seed, "code", p, device=world.device) for p in positions]
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
    columns = [images, *(autoencoder.decode(z) for z in (code, noisy, denoised))]
    save_rows(path, [column[:, channel] for column in columns])


def main(args: argparse.Namespace) -> None:
    """Check the data and the autoencoder, then train."""
    chosen = stage2_of(args)
    with distributed_world(chosen.device) as world:
        autoencoder = load_autoencoder(chosen.source)
        chosen = replace(chosen, codes=chosen.codes.completed(autoencoder.reading.dataset))
        model = model_for(autoencoder.network.code_shape, chosen.stated)
        files = checkpoint_files(chosen.run.log_dir, chosen.run.options.ema_beta)
        run = chosen.run.on(world, [model.build()[0]], files, KIND)
        config = configuration(chosen, autoencoder, model)
        world.share_of(run.options.batch_size)
        check_own_folder(run.log_dir)
        if world.is_main and chosen.notice:
            print(chosen.notice)
        if not ready(chosen.opening, autoencoder.reading, world, run.options.batch_size, healthy=True):
            return
        if only_shown(chosen.opening, settings_of(chosen, run, config) | run.shown(), world):
            return
        with exclusive(run.log_dir, world) as lock:
            training = build(chosen, run, world, autoencoder, model, config, lock.check)
            steps = training.run()
        if world.is_main:
            print(f"Stage 2: {steps} of {run.options.train_steps} steps done; checkpoints in {training.files.folder}")
            if best := run.options.eval_every and best_in_words(run.log_dir):
                print(best)


def check_own_folder(log_dir: Path) -> None:
    """An InputError where the folder is that of a stage-1 run, whose log would be overwritten."""
    if (log_dir / "saved_models").is_dir():
        raise input_error(
            log_dir, "a run of stage 1", "a folder of its own for stage 2", f"use {default_log_dir(log_dir)}"
        )


def configuration(chosen: Stage2, autoencoder: TrainedAutoencoder, model: Model) -> dict:
    """What detection needs to know of the model, for its checkpoints."""
    return {
        "process": asdict(model.process),
        "network": asdict(model.architecture),
        "code_bits": chosen.codes.code_bits,
        "autoencoder": {
            "path": str(autoencoder.path),
            "step": autoencoder.step,
            "weights_hash": autoencoder.weights_hash,
        },
        "data": asdict(autoencoder.reading),
        "lesion_share": chosen.codes.plan.lesion_share,
        "lesions": chosen.codes.plan.lesions,
        "trained_levels": chosen.codes.levels(model.process),
    }


def build(
    chosen: Stage2,
    run: Run,
    world: World,
    autoencoder: TrainedAutoencoder,
    model: Model,
    config: dict,
    check: Callable[[], None],
) -> Training:
    """The run that the flags describe; check is called in every step."""
    options = run.options
    prepare_inference(autoencoder.network.to(world.device), options.amp)
    torch.manual_seed(options.seed)
    network, process = model.build()
    network = network.to(world.device)
    encode = image_encoder(config["code_bits"], options.seed, autoencoder, world, options.amp)
    slices = chosen.opening.folders.open(autoencoder.reading)
    shape = autoencoder.network.code_shape
    loss = DiffusionLoss(world, network, process, encode, options.seed, config["trained_levels"], shape)
    optimizer = make_optimizer(network, run.lr, run.optimizer, run.weight_decay, options.amp)
    dataset = training_codes(chosen.codes, run, world, autoencoder, slices, encode)
    pictured = torch.stack([slices[i]["image"] for i in range(min(PICTURES, len(slices)))])

    def sample(step: int, ema: nn.Module) -> None:
        images = pictured.to(world.device)
        codes = encode(images, list(range(len(images))))
        path, level = run.log_dir / "images" / f"{step:07d}.png", min(PICTURE_LEVEL, config["trained_levels"])
        channel = autoencoder.reading.display_channel
        with autocast(options.amp, world.device):
            save_pictures(path, images, codes, autoencoder.network, ema, process, level, channel)

    training = Training(
        kind=KIND,
        world=world,
        options=options,
        log_dir=run.log_dir,
        files=checkpoint_files(run.log_dir, options.ema_beta),
        modules={"unet": network},
        averaged="unet",
        phases=[Phase("unet", loss.network, optimizer, loss)],
        dataset=WithDraws(dataset, loss.draws),
        config=config,
        settings=settings_of(chosen, run, config) | told_images(slices.names, slices.paths),
        prepare=dataset.prepared if isinstance(dataset, LiveViews) else dict,
        former=former_settings,
        sample=sample,
        evaluate=evaluator(chosen, run, world, autoencoder, model, config) if options.eval_every else None,
        initial=Path(chosen.resume_checkpoint) if chosen.resume_checkpoint else None,
        check=check,
        command=command_line(),
    )
    if chosen.cuda_graphs and recordable(world, options):
        loss.record_graphs(options.batch_size, options.amp)
    return training


def evaluator(
    chosen: Stage2, run: Run, world: World, autoencoder: TrainedAutoencoder, model: Model, config: dict
) -> Callable[[int, nn.Module], dict[str, float]]:
    """What judges the weights on --val_dir, in the main process, for which the others wait; that it does is said."""
    folders, log_dir = chosen.opening.folders, run.log_dir

    def prepared() -> Validation:
        detection = chosen.detection.suited(config, autoencoder.facts.contrast)
        reading = autoencoder.judging(detection.match_contrast)
        images = held_out_images(folders.open_validation(reading), config["lesions"])
        model.process.check_level(detection.noise_level, "noise_level")
        judging = Judging(autoencoder.network, model, config, command_line(), detection, world.device, run.options.amp)
        new = not checkpoint_files(log_dir, run.options.ema_beta).steps()
        validation = Validation(judging, images, str(folders.val_dir), log_dir, new)
        print(f"Judged every {run.options.eval_every} steps on {validation.words}")
        return validation

    validation = world.on_main(prepared)
    return lambda step, ema: world.on_main(lambda: validation(step, ema)) or {}


def recordable(world: World, options: TrainOptions) -> bool:
    """Whether a step's passes can be recorded as CUDA graphs; where not, that is said."""
    several = {"several processes": world.size > 1, "--microbatch": 0 < options.microbatch < options.batch_size}
    found = [name for name, there in several.items() if there]
    if found and world.is_main:
        print(f"--cuda_graphs is not used with {' and '.join(found)}: gradients then add up over several passes.")
    return not found


def training_codes(
    codes: CodeTraining, run: Run, world: World, autoencoder: TrainedAutoencoder, slices: SliceFolder, encode
):
    """The data set of the run: cached codes, or, where bits are sampled, images for every step to encode."""
    views = codes.plan.views(run.variation, len(slices))
    sampled = codes.code_bits == "sample"
    images = run.images(slices, world, earlier=autoencoder.path.parent.parent, once=not sampled)
    if sampled:
        return LiveViews(images, views)
    files = CodeFiles(run.log_dir, slices, autoencoder.weights_hash, autoencoder.network.code_shape, views)
    return cached_codes(files, images, encode, world, run.options.workers)


def settings_of(chosen: Stage2, run: Run, config: dict) -> dict:
    """What a rerun in the same folder must repeat, by the names of the flags."""
    own = {
        "weight_decay": run.weight_decay,
        "ema_rate": run.options.ema_beta,
        "train_noise_levels": config["trained_levels"],
        "resume_checkpoint": chosen.resume_checkpoint,
        "lesion_share": config["lesion_share"],
        "lesions": config["lesions"],
        "code_views": chosen.codes.plan.count,
        "autoencoder weights": config["autoencoder"]["weights_hash"],
        "code_bits": config["code_bits"],
    }
    return config["network"] | config["process"] | config["data"] | run.settings() | own


def former_settings(saved: dict) -> dict:
    """The settings of a run of an earlier version, by today's names."""
    if "schedule_sampler" not in saved:
        return saved
    visited = saved["noise_level"] if saved["schedule_sampler"] == "inference" else saved["diffusion_steps"]
    kept = {name: value for name, value in saved.items() if name not in ("schedule_sampler", "noise_level")}
    return kept | {"train_noise_levels": visited}


command = command_of(get_args_parser, main)

if __name__ == "__main__":
    command()
