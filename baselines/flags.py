"""Command-line flags of the comparing methods.

A detection option that is not given takes the value of the trained method's configuration; one that the method does not
have is refused, and each method checks the values of its own.
"""

import argparse
from collections.abc import Mapping

from baselines.backbones import BACKBONES
from baselines.methods import METHODS, NOISE_SOURCES
from uad.cli.flags import add, add_switch, given
from uad.cli.inference import add_contrast_flag, add_sides_flag
from uad.errors import InputError, Problem
from uad.scores import RESIDUAL_SCORES

FROM_METHOD = "the method's"
ON_OFF = {"action": argparse.BooleanOptionalAction}

# By group, the options of detection: how the parser reads each, and its help.
OPTIONS = {
    "detection, all methods": {
        "noise_level": ({"type": int}, "L, steps of noise added to an image or its latents"),
        "resamplings": ({"type": int}, "repetitions of each inpainting step (ldm, autoddpm)"),
    },
    "detection by ldm": {
        "masked": (ON_OFF, "regenerate only unlikely latents; needs --healthy_dir"),
        "kl_range": ({"type": int, "nargs": 2}, "first and last time step of the divergence that masks latents"),
        "kl_stride": ({"type": int}, "distance between the time steps in --kl_range"),
        "mask_percentile": ({"type": float}, "percentile of the healthy divergence above which a latent is masked"),
        "mask_scope": ({}, "percentile for each `position` of the latents, or one `global`"),
        "residual_against": ({}, "compare the reconstruction with the `input`, or with that of the `autoencoder`"),
    },
    "detection by pddpm": {
        "iterative": (ON_OFF, "run the whole reverse chain for every patch instead of one evaluation"),
    },
    "detection by disyre": {
        "assumed_strengths": ({"type": int}, "number of lesion strengths for which the image is restored"),
        "multi_step": (ON_OFF, "restore in steps from the strongest to none, instead of averaging over strengths"),
    },
    "detection by patchcore": {
        "nearest": ({"type": int}, "number of nearest healthy patches over which distances are averaged"),
    },
    "detection by autoddpm": {
        "resample_level": (
            {"type": int},
            "steps of noise added to the image before its masked part is sampled again",
        ),
        "mask_threshold": (
            {},
            "threshold of the evidence: a number, `healthy` (from --healthy_dir), or `image` (its own 95th percentile)",
        ),
        "mask_false_positives": ({"type": float}, "share of healthy pixels above --mask_threshold healthy"),
        "percentile_region": ({}, "residuals are scaled by their 95th percentile over the `image` or its `foreground`"),
        "lpips_weights": (
            {},
            "file of SqueezeNet 1.1 (or AlexNet) weights; without it, SqueezeNet's are sought in torchvision's cache",
        ),
        "lpips_double_scaling": (ON_OFF, "scale images twice before LPIPS, as in the released code"),
    },
}


def add_method_flag(parser: argparse.ArgumentParser) -> None:
    """Which method."""
    group = parser.add_argument_group("method")
    add(group, "--method", choices=tuple(METHODS), help="the method", shown="required")


def add_method_training_flags(parser: argparse.ArgumentParser) -> None:
    """What may be chosen when a method is trained, beside the shared flags."""
    group = parser.add_argument_group("method's training")
    add(
        group,
        "--vqvae_steps",
        type=int,
        help="optimizer steps of ldm's autoencoder; --train_steps sets those of its diffusion model",
        shown=FROM_METHOD,
    )
    add(
        group,
        "--noise_source",
        choices=NOISE_SOURCES,
        help="simplex noise (anoddpm, pddpm): computed `online`, or cut at random from a `bank` of larger fields; "
        "detection does the same as training",
        shown="online; bank with --size small",
    )
    add_switch(group, "--standardise_noise", "scale simplex noise to standard deviation 1 (anoddpm, pddpm)")
    add(
        group,
        "--backbone",
        choices=tuple(BACKBONES),
        help="ImageNet network whose features are compared (patchcore) or restored (fae)",
        shown=FROM_METHOD,
    )
    add(
        group,
        "--backbone_weights",
        help="file of torchvision's ImageNet weights of --backbone; nothing is downloaded, and detection needs none",
        shown="that in torch's cache",
    )
    add(group, "--memory_images", type=int, help="healthy images to take patches from (patchcore)", shown=FROM_METHOD)
    add(group, "--memory_share", type=float, help="share of the patches to keep (patchcore)", shown=FROM_METHOD)


def given_parts(args: argparse.Namespace) -> dict:
    """What was given of a backbone and of a memory, by the names of the flags."""
    return given(args, ("backbone", "backbone_weights", "memory_images", "memory_share"))


def add_detection_flags(parser: argparse.ArgumentParser) -> None:
    """What may be chosen when a trained method is applied."""
    group = parser.add_argument_group("detection")
    add(group, "--model_path", help="checkpoint of the method's last stage", shown="the newest in --log_dir")
    add(group, "--log_dir", help="folder of the method's training", shown="logs/<method>_<dataset>")
    add(group, "--score", default="paper", choices=RESIDUAL_SCORES, help="anomaly score of the saved maps")
    add_sides_flag(group, default=False)
    add_contrast_flag(group, default=False)
    add(group, "--healthy_dir", help="folder of healthy slices, from which thresholds are computed", shown="none")
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for name, (reading, text) in options.items():
            add(group, f"--{name}", help=text, shown=FROM_METHOD, **reading)


def given_options(args: argparse.Namespace) -> dict:
    """The detection options that were given, by name."""
    return given(args, [name for options in OPTIONS.values() for name in options])


def detection_options(method: str, chosen: Mapping, config: Mapping) -> dict:
    """The method's detection options: its configuration's, and over them those chosen.

    Raises InputError that names every option chosen that the method does not have.
    """
    problems = [
        Problem(f"--{name}", f"{value}", f"an option of --method {method}", f"leave --{name} out")
        for name, value in chosen.items()
        if name not in config["detection"]
    ]
    if problems:
        raise InputError(problems)
    return config["detection"] | chosen
