"""Flags of the binarizing autoencoder, taken by both stages and by inference."""

import argparse

from uad.cli.flags import add, filled, n_channels_of
from uad.errors import input_error

# The paper's configuration.
NETWORK_DEFAULTS = {
    "nf": 32,
    "ch_mult": (1, 2, 2, 4),
    "res_blocks": 2,
    "gen_mul": 1,
    "attn_resolutions": (16,),
    "emb_dim": 256,
    "codebook_size": 128,
    "norm_first": False,
    "use_tanh": False,
    "deterministic": False,
    "norm_groups": 32,
}
# `recommended` is what the measurements in docs/ABLATION.md favour, `paper` the paper's own choice.
TRAINING_PRESETS = {
    "recommended": {
        "normalise": "tissue",
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


def add_autoencoder_flags(parser: argparse.ArgumentParser) -> None:
    """Architecture of the autoencoder, and which checkpoint of it is used."""
    group = parser.add_argument_group("autoencoder (later stages take it from the checkpoint)")
    d = NETWORK_DEFAULTS
    add(group, "--nf", type=int, help="width at full resolution", shown=d["nf"])
    add(
        group,
        "--ch_mult",
        type=int,
        nargs="+",
        help="width of each level, in multiples of nf",
        shown=d["ch_mult"],
    )
    add(group, "--res_blocks", type=int, help="residual blocks per level", shown=d["res_blocks"])
    add(
        group,
        "--gen_mul",
        type=int,
        help="residual blocks of the generator, in multiples of res_blocks",
        shown=1,
    )
    add(group, "--attn_resolutions", type=int, nargs="*", help="sizes with self-attention", shown=16)
    add(group, "--emb_dim", type=int, help="width of a bit's embedding", shown=d["emb_dim"])
    add(group, "--codebook_size", type=int, help="bits per position of the code", shown=d["codebook_size"])
    add(
        group,
        "--latent_shape",
        type=int,
        nargs=3,
        help="1, height and width of the code; checked",
        shown="derived",
    )
    switch = {"action": "store_true", "default": None, "shown": "off"}
    add(group, "--norm_first", help="group normalisation in front of the generator", **switch)
    add(group, "--use_tanh", help="bits are shown to the generator as -1 and +1", **switch)
    add(group, "--deterministic", help="bits are thresholded at 0.5 instead of drawn", **switch)
    add(
        group,
        "--norm_groups",
        type=int,
        help="most groups of a group normalisation; at narrow widths many groups hide how bright an image is",
        shown=d["norm_groups"],
    )
    add(group, "--ae_load_dir", help="log_dir of a stage-1 run", shown="none")
    add(group, "--ae_load_step", default="latest", help="its checkpoint: a step, or latest")
    add(
        group,
        "--ema",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use (and in stage 1 keep) the EMA weights of the autoencoder; --no-ema: the raw ones",
    )


def network_config(args: argparse.Namespace) -> dict:
    """Keyword arguments of a new BinaryAutoEncoder from the flags, checked against `--latent_shape`."""
    config = {"img_size": args.img_size or 256, "n_channels": n_channels_of(args)} | filled(args, NETWORK_DEFAULTS)
    factor = 2 ** (len(config["ch_mult"]) - 1)
    if config["img_size"] % factor:
        raise input_error(
            "--img_size",
            f"{config['img_size']}, with {len(config['ch_mult'])} levels in --ch_mult",
            f"a multiple of {factor}",
            "change one of the two",
        )
    size = config["img_size"] // factor
    if args.latent_shape is not None and tuple(args.latent_shape) != (1, size, size):
        raise input_error(
            "--latent_shape",
            " ".join(map(str, args.latent_shape)),
            f"1 {size} {size}: --img_size {config['img_size']} divided by 2^(levels of --ch_mult - 1)",
            "leave --latent_shape out, or change --img_size or --ch_mult",
        )
    return config
