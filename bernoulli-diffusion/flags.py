"""Flags of the Bernoulli diffusion model, taken by both stages and by inference."""

import argparse

from bernoulli_diffusion.detect import SPACINGS
from bernoulli_diffusion.latents import Views
from bernoulli_diffusion.process import NOISE_KERNELS, NOISE_SCHEDULES
from bernoulli_diffusion.shifts import SHIFTS
from bernoulli_diffusion.unet import PREDICTIONS
from uad.cli.flags import add, add_switch, filled, variation_of
from uad.data.training.corruption import RECIPES
from uad.errors import input_error

# The paper's configuration.
NETWORK_DEFAULTS = {
    "num_channels": 128,
    "channel_mult": (1, 2, 2, 2),
    "num_res_blocks": 2,
    "attention_resolutions": (16,),
    "num_heads": 1,
    "dropout": 0.0,
    "prediction": "flip",
}
PROCESS_DEFAULTS = {"diffusion_steps": 1000, "noise_schedule": "linear", "noise_kernel": "symmetric"}
CODE_BITS = ("threshold", "sample")
SCHEDULE_SAMPLERS = ("uniform", "inference")
# As many views of every image as make this many of the data set, within bounds: with fewer, small data sets are learnt
# by heart; more cost time and space.
WANTED_VIEWS, FEWEST_VIEWS, MOST_VIEWS = 20_000, 4, 32

# `recommended` is what the measurements in docs/ABLATION.md favour, `paper` the paper's own choice.
TRAINING_PRESETS = {
    "recommended": {
        "horizontal_flip": True,
        "augment": 1.0,
        "lesion_share": 0.75,
        "prediction": "clean",
        "schedule_sampler": "inference",
        "noise_level": 200,
        "optimizer": "muon",
    },
    "paper": {
        "horizontal_flip": False,
        "augment": 0.0,
        "lesion_share": 0.0,
        "prediction": "flip",
        "schedule_sampler": "uniform",
        "noise_level": 200,
        "optimizer": "adam",
    },
}
DETECTION_PRESETS = {
    "recommended": {"noise_level": 10, "denoise_spacing": "quadratic", "shifts": 4, "score": "balanced_evidence"},
    "fast": {"noise_level": 10, "denoise_spacing": "quadratic", "shifts": 1, "score": "balanced_evidence"},
    "paper": {"noise_level": 200, "denoise_spacing": "even", "shifts": 1, "score": "paper"},
}
# So many denoising steps, spaced quadratically, find at least as much as every step does; up to ONE_STEP_LEVEL a single
# step does (docs/SPEED.md).
ENOUGH_STEPS, ONE_STEP_LEVEL = 5, 20


def add_diffusion_flags(parser: argparse.ArgumentParser) -> None:
    """The process, its network, its training and its use."""
    group = parser.add_argument_group("Bernoulli diffusion (inference takes it from the checkpoint)")
    n, p = NETWORK_DEFAULTS, PROCESS_DEFAULTS
    add(group, "--sampler", default="bld", choices=("bld",), help="bld: binary latent diffusion with Bernoulli noise")
    add(group, "--diffusion_steps", type=int, help="T", shown=p["diffusion_steps"])
    add(group, "--noise_schedule", choices=NOISE_SCHEDULES, help="schedule of beta_t", shown=p["noise_schedule"])
    add(
        group,
        "--noise_kernel",
        choices=NOISE_KERNELS,
        help="released: the released code's forward noise, in which bits flip from 1 to 0 only, for its checkpoints",
        shown=p["noise_kernel"],
    )
    add(group, "--num_channels", type=int, help="width of the U-Net", shown=n["num_channels"])
    add(group, "--channel_mult", type=int, nargs="+", help="its levels, in multiples of it", shown=n["channel_mult"])
    add(group, "--num_res_blocks", type=int, help="residual blocks per level", shown=n["num_res_blocks"])
    add(group, "--attention_resolutions", type=int, nargs="*", help="code sizes with self-attention", shown=16)
    add(group, "--num_heads", type=int, help="attention heads", shown=n["num_heads"])
    add(group, "--dropout", type=float, help="dropout in residual blocks", shown=n["dropout"])
    add(
        group,
        "--prediction",
        choices=PREDICTIONS,
        help="what the last convolution gives. flip: log-odds of a flip, as in the paper; clean: log-odds of the clean "
        "bit, turned into those of a flip by Bayes' rule, which a short training learns faster",
        shown=n["prediction"],
    )
    add(
        group,
        "--code_bits",
        choices=CODE_BITS,
        help="bits of an image: threshold its probabilities at 0.5, or sample them",
        shown="threshold",
    )
    add(
        group,
        "--schedule_sampler",
        default="uniform",
        choices=SCHEDULE_SAMPLERS,
        help="noise levels in training: uniform over 1..T, or over 1..noise_level, those that inference visits",
    )
    add(
        group,
        "--lesion_share",
        type=float,
        default=0.0,
        help="an addition to the paper: this share of the training codes is of images with synthetic lesions, and the "
        "healthy code is asked for; 0: noise only, as in the paper",
    )
    add(
        group,
        "--lesions",
        default="intensity",
        choices=tuple(RECIPES),
        help="which synthetic lesions. intensity: mostly changed intensities, anywhere in the body; structure: fainter "
        "ones too, swollen and shrunken tissue, and more where the image is bright, for layers such as the retina's",
    )
    add(
        group,
        "--code_views",
        type=int,
        help="variations of every image (mirrored, --augment, synthetic lesions) in the code cache",
        shown=f"with --augment or --lesion_share as many as make {WANTED_VIEWS} images, {FEWEST_VIEWS} to "
        f"{MOST_VIEWS}; otherwise 2 with --horizontal_flip, else 1",
    )
    add(group, "--ema_rate", type=float, default=0.999, help="decay of the U-Net's EMA weights (stage 2)")
    add_switch(group, "--no_code_cache", "encode images anew in every step")
    add(group, "--resume_checkpoint", help="begin with the weights of this stage-2 checkpoint", shown="none")
    group = parser.add_argument_group("masked denoising")
    add(group, "--noise_level", type=int, default=200, help="L, steps of noise that are added and taken away")
    add(group, "--prob_threshold", type=float, default=0.5, help="P, flip probability above which a bit may change")
    add(
        group,
        "--denoise_steps",
        type=int,
        help="steps from L to 0",
        shown=f"1 up to L = {ONE_STEP_LEVEL}, beyond that {ENOUGH_STEPS}; with --preset paper L, every step",
    )
    add(
        group,
        "--denoise_spacing",
        default="even",
        choices=SPACINGS,
        help="where fewer steps than L stop: evenly, or quadratic, with shorter steps where the noise is weak",
    )
    add(
        group,
        "--shifts",
        type=int,
        default=1,
        choices=tuple(SHIFTS),
        help="average over so many copies of an image, shifted by half a position of the code",
    )
    add(group, "--model_path", help="stage-2 checkpoint for inference", shown="the newest one of this autoencoder")


def network_config(args: argparse.Namespace, code_shape: tuple[int, int, int]) -> dict:
    """Keyword arguments of a new FlipUNet from the flags and the code's shape; InputError where they do not fit."""
    config = {"codebook_size": code_shape[0], "code_size": code_shape[1]} | filled(args, NETWORK_DEFAULTS)
    factor = 2 ** (len(config["channel_mult"]) - 1)
    if code_shape[1] % factor:
        raise input_error(
            "--channel_mult",
            f"{len(config['channel_mult'])} levels, for a code of size {code_shape[1]}",
            f"a code size that {factor} divides",
            "give fewer levels",
        )
    return config


def process_config(args: argparse.Namespace) -> dict:
    """Keyword arguments of a BernoulliDiffusion from the flags; InputError where they contradict each other."""
    config = filled(args, PROCESS_DEFAULTS)
    check_noise_level(args.noise_level, config["diffusion_steps"])
    if filled(args, NETWORK_DEFAULTS)["prediction"] == "clean" and config["noise_kernel"] != "symmetric":
        raise input_error(
            "--prediction", "clean, with --noise_kernel released", "symmetric noise", "use --prediction flip"
        )
    return config


def check_noise_level(noise_level: int, diffusion_steps: int) -> None:
    """An InputError for a noise level that the process does not have."""
    if not 1 <= noise_level <= diffusion_steps:
        raise input_error("--noise_level", str(noise_level), f"1..{diffusion_steps} (--diffusion_steps)", "change it")


def trained_levels(args: argparse.Namespace, diffusion_steps: int) -> int:
    """The greatest noise level that training visits."""
    return args.noise_level if args.schedule_sampler == "inference" else diffusion_steps


def default_steps(noise_level: int, preset: str) -> int:
    """K, the denoising steps from level L = noise_level to 0 with a detection preset."""
    if preset == "paper":
        return noise_level
    return 1 if noise_level <= ONE_STEP_LEVEL else ENOUGH_STEPS


def complete_detection_flags(args: argparse.Namespace) -> None:
    """Fill in the number of denoising steps; an InputError for values of the masked denoising that mean nothing."""
    if not 0 <= args.prob_threshold <= 1:
        raise input_error("--prob_threshold", str(args.prob_threshold), "a probability in 0..1", "change it")
    if args.noise_level < 1:
        raise input_error("--noise_level", str(args.noise_level), "1 or more", "change it")
    if args.denoise_steps is None:
        args.denoise_steps = default_steps(args.noise_level, args.preset)
    elif not 1 <= args.denoise_steps <= args.noise_level:
        expected = f"1..{args.noise_level}, the noise level"
        raise input_error("--denoise_steps", str(args.denoise_steps), expected, "change it")


def views_of(args: argparse.Namespace, slices: int) -> Views:
    """The views of each of so many slices from the flags; InputError for values that mean nothing."""
    if not 0 <= args.lesion_share <= 1:
        raise input_error("--lesion_share", str(args.lesion_share), "a share in 0..1", "change it")
    if args.code_views is not None and args.code_views < 1:
        raise input_error("--code_views", str(args.code_views), "1 or more", "change it")
    default = 1 + args.horizontal_flip
    if args.augment or args.lesion_share:
        default = min(max(-(-WANTED_VIEWS // slices), FEWEST_VIEWS), MOST_VIEWS)
    return Views(variation_of(args), args.code_views or default, args.lesion_share, args.lesions)
