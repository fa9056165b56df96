"""Flags of the Bernoulli diffusion model: chosen in stage 2, compared with its checkpoint in detection."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

from bernoulli_diffusion.architecture import Architecture, Process
from bernoulli_diffusion.latents import FEWEST_VIEWS, MOST_VIEWS, WANTED_VIEWS, ViewPlan
from bernoulli_diffusion.method import (
    CODE_BITS,
    ENOUGH_STEPS,
    ONE_STEP_LEVEL,
    PROB_THRESHOLD,
    Detection,
    default_steps,
)
from bernoulli_diffusion.model import ModelSource, default_log_dir
from bernoulli_diffusion.process import NOISE_KERNELS, NOISE_SCHEDULES
from bernoulli_diffusion.settings import ChosenSettings, read_settings
from bernoulli_diffusion.shifts import SHIFTS
from bernoulli_diffusion.unet import PREDICTIONS
from uad.cli.data import THE_CHECKPOINTS, compared_group
from uad.cli.flags import Flags, add, given, number_or_all
from uad.cli.inference import add_contrast_flag, add_model_path_flag, add_sides_flag
from uad.data.training.lesions import RECIPES
from uad.distributed import World
from uad.errors import input_error
from uad.results import SETTINGS_KEY
from uad.scores import SCORES
from uad.suited import default_shown, suited_to

# `recommended` is what the measurements in docs/notebook favour, `paper` the paper's own choice.
TRAINING_PRESETS = {
    "recommended": {
        "horizontal_flip": True,
        "augment": 1.0,
        "lesion_share": 0.75,
        "prediction": "clean",
        "train_noise_levels": 200,
        "optimizer": "muon",
    },
    "paper": {
        "horizontal_flip": False,
        "augment": 0.0,
        "lesion_share": 0.0,
        "prediction": "flip",
        "train_noise_levels": "all",
        "optimizer": "adam",
    },
}
# The values of P that a grid has by default.
PROB_THRESHOLDS = (0.3, 0.5, 0.7)
# `paper` is the paper's network, `small` one that minutes on a CPU train on codes of 16 x 16 positions.
SIZES = {
    "paper": {
        "num_channels": 128,
        "channel_mult": (1, 2, 2, 2),
        "num_res_blocks": 2,
        "attention_resolutions": (16,),
        "batch_size": 8,
        "lr": 1e-4,
        "clip_norm": 0.0,
        "train_steps": 120_000,
        "lr_anneal_steps": 0,
        "steps_per_log": 200,
        "steps_per_checkpoint": 10_000,
        "steps_per_save_output": 5000,
        "steps_per_eval": 1000,
    },
    "small": {
        "num_channels": 64,
        "channel_mult": (1, 2, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (8,),
        "batch_size": 32,
        "lr": 1e-3,
        "clip_norm": 1.0,
        "train_steps": 1000,
        "lr_anneal_steps": "all",
        "steps_per_log": 25,
        "steps_per_checkpoint": 100,
        "steps_per_save_output": 100,
        "steps_per_eval": 100,
    },
}
# A code's shape is the autoencoder's, and dropout acts in training only.
NETWORK = tuple(
    field.name for field in fields(Architecture) if field.name not in ("codebook_size", "code_size", "dropout")
)
PROCESS = tuple(field.name for field in fields(Process))


def add_model_flags(parser: argparse.ArgumentParser, compared: bool = False) -> None:
    """Network and process: chosen, or compared with their checkpoint."""
    group = compared_group(parser) if compared else parser.add_argument_group("Bernoulli diffusion")
    paper = {field.name: field.default for part in (Architecture, Process) for field in fields(part)}

    def flag(name: str, help: str, **options) -> None:
        default = {"shown": THE_CHECKPOINTS} if compared else {"default": paper[name]}
        add(group, f"--{name}", help=help, **options, **default)

    # Of the released code, which has no other choice either.
    group.add_argument("--sampler", choices=("bld",), help=argparse.SUPPRESS)
    flag("diffusion_steps", "T, number of noise levels", type=int)
    flag("noise_schedule", "schedule of beta_t", choices=NOISE_SCHEDULES)
    flag(
        "noise_kernel",
        "released: for checkpoints of the released code, whose forward noise flips bits from 1 to 0 only",
        choices=NOISE_KERNELS,
    )
    flag("num_channels", "width of the U-Net", type=int)
    flag("channel_mult", "width of each level of the U-Net, in multiples of num_channels", type=int, nargs="+")
    flag("num_res_blocks", "residual blocks per level", type=int)
    flag("attention_resolutions", "code sizes with self-attention", type=int, nargs="*")
    flag("num_heads", "attention heads", type=int)
    flag(
        "prediction",
        "output of the last convolution. flip: log-odds of a flip, as in the paper; clean: log-odds of the clean bit, "
        "converted to those of a flip by Bayes' rule, which learns faster in short trainings",
        choices=PREDICTIONS,
    )
    if not compared:
        flag("dropout", "dropout in residual blocks", type=float)


def stated_model(args: argparse.Namespace) -> dict:
    """What the flags of `add_model_flags` state, by name."""
    return given(args, (*NETWORK, *PROCESS))


@dataclass(frozen=True)
class CodeTraining:
    """What stage 2 trains on.

    code_bits: how probabilities become bits; train_noise_levels: noise levels 1..N, None for all; plan: the views,
    whose lesions are None for what suits the data set.
    """

    code_bits: str
    train_noise_levels: int | None
    plan: ViewPlan

    def completed(self, dataset: str) -> "CodeTraining":
        """The same with the synthetic lesions that suit the data set, unless they are chosen."""
        lesions = self.plan.lesions or suited_to(dataset).lesions
        return replace(self, plan=replace(self.plan, lesions=lesions))

    def levels(self, process: Process) -> int:
        """The highest noise level in training; InputError where the process does not have it."""
        highest = process.diffusion_steps if self.train_noise_levels is None else self.train_noise_levels
        process.check_level(highest, "train_noise_levels")
        return highest


def add_code_training_flags(parser: argparse.ArgumentParser) -> None:
    """What stage 2 trains on, and where it begins."""
    group = parser.add_argument_group("stage 2")
    add_code_bits(group, "threshold")
    add(
        group,
        "--train_noise_levels",
        type=number_or_all,
        default="all",
        help="training draws noise levels uniformly from 1 to this; all: up to --diffusion_steps",
    )
    group.add_argument("--noise_level", type=int, help=argparse.SUPPRESS)  # the former name
    # Of the released code, which has no other choice either.
    group.add_argument("--schedule_sampler", choices=("uniform",), help=argparse.SUPPRESS)
    add(
        group,
        "--lesion_share",
        type=float,
        default=0.0,
        help="share of training codes made from images with synthetic lesions; the target is the healthy code. An "
        "addition to the paper; 0: noise only, as in the paper",
    )
    add(
        group,
        "--lesions",
        choices=tuple(RECIPES),
        help="kind of synthetic lesions. intensity: mostly changed intensities, anywhere in the body; structure: also "
        "fainter ones, swollen and shrunken tissue, and more in bright regions, for layers such as the retina's",
        shown=default_shown("lesions"),
    )
    add(
        group,
        "--code_views",
        type=int,
        help="variations of every image (mirrored, --augment, synthetic lesions) in the code cache",
        shown=f"with --augment or --lesion_share enough for {WANTED_VIEWS} images, {FEWEST_VIEWS} to {MOST_VIEWS}; "
        "otherwise 2 with --horizontal_flip, else 1",
    )
    add(group, "--ema_rate", type=float, default=0.999, help="decay of the U-Net's EMA weights")
    add(group, "--resume_checkpoint", help="start from the weights of this full stage-2 checkpoint", shown="none")


def add_code_bits(group, shown: str) -> None:
    """How probabilities become bits."""
    add(
        group,
        "--code_bits",
        choices=CODE_BITS,
        help="how probabilities become bits: threshold them at 0.5, or sample them (in training anew in every step)",
        shown=shown,
    )


def code_training_of(args: argparse.Namespace) -> CodeTraining:
    """What the flags say; InputError for values that mean nothing."""
    if not 0 <= args.lesion_share <= 1:
        raise input_error("--lesion_share", str(args.lesion_share), "a share in 0..1", "change it")
    if args.code_views is not None and args.code_views < 1:
        raise input_error("--code_views", str(args.code_views), "1 or more", "change it")
    levels = args.train_noise_levels if args.noise_level is None else args.noise_level
    plan = ViewPlan(args.code_views, args.lesion_share, args.lesions)
    return CodeTraining(args.code_bits or "threshold", None if levels == "all" else levels, plan)


def renaming_notice(args: argparse.Namespace) -> str | None:
    """What to say where the former name of --train_noise_levels was used."""
    if args.noise_level is None:
        return None
    return f"--noise_level is --train_noise_levels in training: levels 1 to {args.noise_level} are learned."


def add_model_source_flags(parser: argparse.ArgumentParser) -> None:
    """Which model detection uses."""
    group = parser.add_argument_group("the trained diffusion model")
    add_model_path_flag(group, True, "the newest for this autoencoder")
    add(group, "--log_dir", help="folder of the stage-2 run", shown="<ae_load_dir>/bernoulli_diffusion")
    add_model_flags(parser, compared=True)


def model_source(args: argparse.Namespace) -> ModelSource:
    """What the flags of `add_model_source_flags` say."""
    folder = Path(args.log_dir) if args.log_dir else default_log_dir(args.ae_load_dir or "")
    return ModelSource(args.model_path or (), folder, stated_model(args))


def add_detection_flags(parser: argparse.ArgumentParser, grid: bool = False) -> None:
    """The masked denoising and the map; grid: L, P, K, shifts and score each take several values, see grid_flags.py."""
    group = parser.add_argument_group("masked denoising")
    several = {"nargs": "+"} if grid else {}
    threshold = PROB_THRESHOLDS if grid else PROB_THRESHOLD
    level = "L, steps of noise that are added and removed"
    add(group, "--noise_level", type=int, default=200, help=level, **several)
    add(
        group,
        "--prob_threshold",
        type=float,
        default=threshold,
        help="P, flip probability above which a bit may change",
        **several,
    )
    add(
        group,
        "--denoise_steps",
        type=int,
        help="K, number of steps from L to 0; steps are shorter where the noise is weak",
        shown=f"1 up to L = {ONE_STEP_LEVEL}, {ENOUGH_STEPS} above; with --preset paper L, every step",
        **several,
    )
    add(
        group,
        "--shifts",
        type=int,
        default=1,
        choices=tuple(SHIFTS),
        help="average over this many copies of an image, shifted by half a position of the code",
        **several,
    )
    add_code_bits(group, "as in the model's training")
    score = "anomaly score of the maps; see docs/METHOD.md"
    add(group, "--score", default="paper", choices=SCORES, help=score, **several)
    add(
        group,
        "--polarity",
        nargs="+",
        type=int,
        help="prior knowledge for each channel: lesions are brighter (1), darker (-1), or do not show (0)",
        shown="none",
    )
    add_sides_flag(group, shown=default_shown("compare_sides"))
    add_contrast_flag(group, shown="True for models that store it, else False")


def add_settings_flag(parser: Flags) -> None:
    """--settings, for a parser with the flags of `add_detection_flags` and --model_path."""

    def defaults(path: str) -> dict:
        settings = read_settings(path)
        named = {"model_path": list(settings.model_path)} if settings.model_path else {}
        return settings.flags | named

    add(
        parser,
        "--settings",
        help="settings.json of scripts/sweep.py, for the same networks: sets the flags of the masked denoising; a flag "
        "on the command line takes precedence",
        shown="none",
    )
    parser.read_defaults("settings", defaults)


def chosen_settings(args: argparse.Namespace) -> ChosenSettings | None:
    """What the file of --settings says, None without the flag."""
    return read_settings(args.settings) if args.settings else None


def told_settings(settings: ChosenSettings | None, data_hash: Callable[[], str | None], world: World) -> dict:
    """For run.json: the file of the settings, if there is one, and a notice, which is said, where they were chosen on
    the images with this hash; None: of images that cannot be those.
    """
    if settings is None:
        return {}
    facts = settings.facts(world.told_by_main(data_hash))
    if world.is_main and "notice" in facts:
        print(facts["notice"])
    return {SETTINGS_KEY: facts}


def detection_of(args: argparse.Namespace, **chosen) -> Detection:
    """What the flags of `add_detection_flags` say, but for fields that are chosen; denoise_steps None: the preset's.

    InputError for values that mean nothing.
    """
    values = {field.name: getattr(args, field.name) for field in fields(Detection)} | chosen
    if values["denoise_steps"] is None:
        values["denoise_steps"] = default_steps(values["noise_level"], args.preset)
    values["polarity"] = tuple(args.polarity) if args.polarity else None
    return Detection(**values)
