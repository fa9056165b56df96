"""Flags of the binarizing autoencoder: chosen in stage 1, compared with its checkpoint afterwards."""

import argparse
from dataclasses import fields

from binary_autoencoder.architecture import Architecture
from binary_autoencoder.checkpoint import AutoencoderSource
from binary_autoencoder.objective import LossTerms
from uad.cli.data import THE_CHECKPOINTS, add_reading_flags, compared_group, given_reading
from uad.cli.flags import add, add_switch, given
from uad.data.reading.settings import Reading

# `recommended` is what the measurements in docs/notebook favour, `paper` the paper's own choice.
TRAINING_PRESETS = {
    "recommended": {
        "normalise": None,  # what suits the data set
        "horizontal_flip": True,
        "augment": 1.0,
        "code_weight": 0.01,
        "optimizer": "muon",
        "norm_groups": 8,
    },
    "paper": {
        "normalise": "joint",
        "horizontal_flip": False,
        "augment": 0.0,
        "code_weight": 0.0,
        "optimizer": "adam",
        "norm_groups": 32,
    },
}
# `paper` is the paper's network, `small` one that minutes on a CPU train.
SIZES = {
    "paper": {
        "img_size": 256,
        "nf": 32,
        "ch_mult": (1, 2, 2, 4),
        "res_blocks": 2,
        "emb_dim": 256,
        "codebook_size": 128,
        "norm_first": False,
        "batch_size": 8,
        "base_lr": 4.5e-6,
        "ema_beta": 0.995,
        "steps_per_update_ema": 10,
        "train_steps": 120_000,
        "lr_anneal_steps": 0,
        "steps_per_log": 200,
        "steps_per_checkpoint": 10_000,
        "steps_per_save_output": 5000,
    },
    "small": {
        "img_size": 128,
        "nf": 16,
        "ch_mult": (1, 2, 4, 4),
        "res_blocks": 1,
        "emb_dim": 128,
        "codebook_size": 64,
        "norm_first": True,
        "batch_size": 8,
        "base_lr": 1.25e-4,
        "ema_beta": 0.99,
        "steps_per_update_ema": 1,
        "train_steps": 600,
        "lr_anneal_steps": "all",
        "steps_per_log": 25,
        "steps_per_checkpoint": 100,
        "steps_per_save_output": 100,
    },
}
DEFAULT_LR = "--base_lr times --batch_size"
# Read apart: n_channels and img_size are how images are read, and whether bits are drawn is chosen in stage 1.
ARCHITECTURE = tuple(
    field.name for field in fields(Architecture) if field.name not in ("n_channels", "img_size", "deterministic")
)


def add_architecture_flags(parser: argparse.ArgumentParser, compared: bool = False) -> None:
    """The network: chosen, or compared with its checkpoint, together with how it reads images."""
    group = compared_group(parser) if compared else parser.add_argument_group("autoencoder")
    paper = {field.name: field.default for field in fields(Architecture)}

    def flag(name: str, help: str, **options) -> None:
        default = {"shown": THE_CHECKPOINTS} if compared else {"default": paper[name]}
        add(group, f"--{name}", help=help, **options, **default)

    flag("nf", "width at full resolution", type=int)
    flag("ch_mult", "width of each level, in multiples of nf", type=int, nargs="+")
    flag("res_blocks", "residual blocks per level", type=int)
    flag("gen_mul", "residual blocks of the generator, in multiples of res_blocks", type=int)
    flag("attn_resolutions", "sizes with self-attention", type=int, nargs="*")
    flag("emb_dim", "width of a bit's embedding", type=int)
    flag("codebook_size", "bits per position of the code", type=int)
    flag("norm_first", "group normalisation before the generator", action=argparse.BooleanOptionalAction)
    flag("use_tanh", "the generator sees bits as -1 and +1", action=argparse.BooleanOptionalAction)
    flag(
        "norm_groups",
        "largest number of groups in a group normalisation; in narrow networks, many groups hide an image's brightness",
        type=int,
    )
    add(
        group,
        "--latent_shape",
        type=int,
        nargs=3,
        help="1, height and width of the code; only checked",
        shown="derived",
    )
    if not compared:
        add_switch(group, "--deterministic", "threshold bits at 0.5 in training too, instead of sampling them")


def architecture_of(args: argparse.Namespace, reading: Reading) -> Architecture:
    """The network that the flags describe; InputError where they do not fit each other."""
    chosen = given(args, (*ARCHITECTURE, "deterministic"))
    architecture = Architecture(reading.n_channels, reading.img_size, **chosen)
    architecture.check_latent_shape(args.latent_shape, "the flags")
    return architecture


def add_autoencoder_flags(parser: argparse.ArgumentParser, needed: str = "required") -> None:
    """Which autoencoder a later stage uses, and what it is believed to be; needed: whether, in words."""
    group = parser.add_argument_group("the trained autoencoder")
    add(group, "--ae_load_dir", help="log_dir of a stage-1 run", shown=needed)
    add(group, "--ae_load_step", default="latest", help="its checkpoint: a step, or latest")
    add(
        group,
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the EMA weights of the autoencoder; --no-ema: the raw ones",
    )
    add_reading_flags(parser, compared=True)
    add_architecture_flags(parser, compared=True)


def autoencoder_source(args: argparse.Namespace) -> AutoencoderSource:
    """What the flags of `add_autoencoder_flags` say."""
    stated = given_reading(args) | given(args, (*ARCHITECTURE, "latent_shape"))
    return AutoencoderSource(args.ae_load_dir, args.ae_load_step, args.ema, stated)


def add_loss_flags(parser: argparse.ArgumentParser) -> None:
    """Loss terms and EMA of stage 1."""
    group = parser.add_argument_group("losses and EMA")
    add(
        group,
        "--base_lr",
        type=float,
        default=4.5e-6,
        help="learning rate per image of the batch, if --lr is not given",
    )
    add(
        group,
        "--code_weight",
        type=float,
        default=0.0,
        help="weight of the term mean p (1 - p), which makes bits certain",
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
        shown="that in torch's hub cache, if any",
    )
    add(group, "--disc_start_step", type=int, default=30_001, help="first step with the adversarial term")
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
        help="steps between updates of the EMA weights",
    )
    add(
        group,
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use the EMA weights for pictures and --val_dir; --no-ema: the raw ones (both are saved)",
    )


def loss_terms(args: argparse.Namespace) -> LossTerms:
    """The terms that the flags describe."""
    return LossTerms(
        code_weight=args.code_weight,
        perceptual_weight=args.perceptual_weight,
        disc_start_step=args.disc_start_step,
        disc_weight_max=args.disc_weight_max,
        diff_aug=args.diff_aug,
    )


def add_start_flags(parser: argparse.ArgumentParser) -> None:
    """Where stage 1 begins."""
    group = parser.add_argument_group("starting point")
    add(group, "--load_dir", help="start from the weights of another stage-1 run", shown="none")
    add(group, "--load_step", default="latest", help="its checkpoint: a step, or latest")
    add_switch(group, "--load_optim", "also load its optimizer states; learning rates are this run's")
