"""Building and loading the diffusion model: its network together with its process."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from bernoulli_diffusion.flags import (
    NETWORK_DEFAULTS,
    PROCESS_DEFAULTS,
    check_noise_level,
    network_config,
    process_config,
)
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.checkpoints import CheckpointFiles, load_checkpoint, load_weights, weights_hash
from uad.cli.flags import reconcile
from uad.errors import InputError, input_error

KIND = "bernoulli_diffusion"


@dataclass(frozen=True)
class TrainedDiffusion:
    """A flip-probability network in evaluation mode, its process, and where it came from.

    config: network, process, code_bits, autoencoder and data settings; empty parts for a released checkpoint.
    """

    network: FlipUNet
    process: BernoulliDiffusion
    path: Path
    step: int
    config: dict
    weights_hash: str


def checkpoint_files(log_dir: Path | str, ema_rate: float) -> CheckpointFiles:
    """Where a stage-2 run keeps its checkpoints: the released code's names, with `bld` for the model's."""
    return CheckpointFiles(Path(log_dir), "bld{step:06d}.pt", f"emabld{ema_rate}_{{step:06d}}.pt")


def default_log_dir(ae_load_dir: Path | str) -> Path:
    """The stage-2 folder of an autoencoder's run, where inference looks for a model."""
    return Path(ae_load_dir) / "bernoulli_diffusion"


def build_network(network_config: dict, process: BernoulliDiffusion) -> FlipUNet:
    """A FlipUNet from its configuration, with the table of noise log-odds where its prediction needs it."""
    table = process.noise_log_odds() if network_config["prediction"] == "clean" else None
    return FlipUNet(**network_config, noise_log_odds=table)


def load_diffusion(path: Path | str, released_config: dict) -> TrainedDiffusion:
    """A trained model; a released checkpoint, which holds weights only, is built from `released_config`.

    released_config: {"network": ..., "process": ..., "code_bits": ...}. Raises InputError for a missing, damaged or
    foreign file, and for weights that do not fit.
    """
    path = Path(path)
    content = load_checkpoint(path)
    if content.get("kind") == KIND:
        config, step = content["config"], content["step"]
        weights = content["weights"] if "weights" in content else content["ema"]
    elif "time_embed.0.weight" in content:
        config, step, weights = released_config, 0, {key: value.float() for key, value in content.items()}
    else:
        kind = content.get("kind", "unknown content")
        raise input_error(path, f"a checkpoint of: {kind}", "a Bernoulli diffusion model", "name a stage-2 checkpoint")
    process = BernoulliDiffusion(**config["process"])
    network = build_network(config["network"], process)
    load_weights(network, weights, path)
    return TrainedDiffusion(network.eval().requires_grad_(False), process, path, step, config, weights_hash(weights))


def newest_model_of(autoencoder_hash: str, folder: Path) -> Path:
    """The newest EMA checkpoint in a folder that was trained on the autoencoder with these weights.

    Raises InputError naming what lies there otherwise.
    """
    found = []
    for path in sorted(folder.glob("emabld*_*.pt"), key=lambda p: int(p.stem.rsplit("_", 1)[1]), reverse=True):
        try:
            content = load_checkpoint(path)
        except InputError as error:
            found.append(str(error))
            continue
        if content.get("kind") == KIND and content["config"]["autoencoder"]["weights_hash"] == autoencoder_hash:
            return path
        found.append(f"{path.name}: trained on another autoencoder")
    raise input_error(
        folder,
        "; ".join(found) or "no emabld*.pt",
        f"a model trained on the autoencoder with weights {autoencoder_hash}",
        "train stage 2 on this autoencoder, choose the autoencoder by --ae_load_step, or pass --model_path",
    )


def load_model(args: argparse.Namespace, code_shape: tuple[int, int, int], autoencoder_hash: str) -> TrainedDiffusion:
    """The model that the flags name, for the autoencoder with these weights; InputError where they do not fit."""
    folder = Path(args.log_dir) if args.log_dir else default_log_dir(args.ae_load_dir)
    path = args.model_path or newest_model_of(autoencoder_hash, folder)
    released = {
        "network": network_config(args, code_shape),
        "process": process_config(args),
        "code_bits": args.code_bits or "threshold",
    }
    model = load_diffusion(path, released)
    known = model.config["network"] | model.config["process"]
    reconcile(args, {name: known[name] for name in (*NETWORK_DEFAULTS, *PROCESS_DEFAULTS) if name != "dropout"}, path)
    check_codes_match(model, code_shape, autoencoder_hash)
    check_noise_level(args.noise_level, model.process.diffusion_steps)
    return model


def check_codes_match(model: TrainedDiffusion, code_shape: tuple[int, int, int], autoencoder_hash: str | None) -> None:
    """An InputError unless the model was made for codes of this shape and, where both are known, this autoencoder."""
    network = model.config["network"]
    made_for = (network["codebook_size"], network["code_size"], network["code_size"])
    if made_for != tuple(code_shape):
        raise input_error(
            model.path, f"a model of codes {made_for}", f"{tuple(code_shape)}, the autoencoder's", "use a matching pair"
        )
    trained_on = model.config.get("autoencoder", {})
    if autoencoder_hash and trained_on and trained_on["weights_hash"] != autoencoder_hash:
        raise input_error(
            model.path,
            f"trained on the autoencoder {trained_on['path']} (weights {trained_on['weights_hash']})",
            f"one trained on weights {autoencoder_hash}",
            "choose the autoencoder it was trained on (--ae_load_dir, --ae_load_step, --ema), or another --model_path",
        )
