"""Finding and loading a trained autoencoder: this project's checkpoints and the released ones."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from binary_autoencoder.flags import network_config
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.checkpoints import CheckpointFiles, load_checkpoint, load_weights, weights_hash
from uad.cli.flags import reconcile
from uad.errors import input_error

KIND = "binary_autoencoder"


@dataclass(frozen=True)
class TrainedAutoencoder:
    """An autoencoder in evaluation mode with where it came from.

    data: the settings its images were read with (dataset, n_channels, img_size, normalise); weights_hash: identifies
    the weights, so that what is built on them can name them.
    """

    network: BinaryAutoEncoder
    path: Path
    step: int
    data: dict
    weights_hash: str


def checkpoint_files(log_dir: Path | str) -> CheckpointFiles:
    """Where a stage-1 run keeps its checkpoints: the released code's names."""
    return CheckpointFiles(Path(log_dir) / "saved_models", "binaryae_{step}.th", "binaryae_ema_{step}.th")


def load_autoencoder(args: argparse.Namespace) -> TrainedAutoencoder:
    """The autoencoder named by --ae_load_dir, --ae_load_step and --ema.

    Its architecture and data settings come from the checkpoint, or from the flags for a released checkpoint, which
    carries weights only. Raises InputError for a missing or damaged file and for flags that contradict it.
    """
    path, step = _find(args)
    content = load_checkpoint(path)
    if content.get("kind") == KIND:
        config, data = content["config"]["network"], content["config"]["data"]
        weights = content["weights"] if "weights" in content else content["models"]["autoencoder"]
        # `deterministic` may be chosen anew for every use: it is not part of the weights.
        reconcile(args, {k: v for k, v in (config | data).items() if k not in ("dataset", "deterministic")}, path)
        if args.deterministic is not None:
            config = config | {"deterministic": args.deterministic}
        _check_latent_shape(args, config)
    elif any(key.startswith("ae.") for key in content):
        config = network_config(args)
        data = {
            "dataset": args.dataset,
            "n_channels": config["n_channels"],
            "img_size": config["img_size"],
            # As the released code read its images.
            "normalise": args.normalise or "joint",
        }
        weights = released_weights(content, config)
    else:
        kind = content.get("kind", "unknown content")
        raise input_error(path, f"a checkpoint of: {kind}", "an autoencoder", "point --ae_load_dir to a stage-1 run")
    network = BinaryAutoEncoder(**config)
    load_weights(network, weights, path)
    return TrainedAutoencoder(network.eval().requires_grad_(False), path, step, data, weights_hash(weights))


def released_weights(content: dict[str, Tensor], config: dict) -> dict[str, Tensor]:
    """The autoencoder's part of a released state dict.

    Left out are the discriminator, the perceptual network and what the released network holds but never uses:
    `logsigma` and the skip convolutions of blocks of constant width.
    """
    wanted = BinaryAutoEncoder(**config).state_dict().keys()
    weights = {key.removeprefix("ae."): value.float() for key, value in content.items() if key.startswith("ae.")}
    return {k: v for k, v in weights.items() if k in wanted or not (".conv_out." in k or ".logsigma." in k)}


def _check_latent_shape(args: argparse.Namespace, config: dict) -> None:
    expected = (1, *BinaryAutoEncoder(**config).code_shape[1:])
    if args.latent_shape is not None and tuple(args.latent_shape) != expected:
        raise input_error(
            "--latent_shape",
            f"{tuple(args.latent_shape)}",
            f"{expected}, the checkpoint's",
            "leave --latent_shape out",
        )


def find_step(folder: Path, steps: list[int], flag: str, wanted: str) -> int:
    """The step that `--<flag>` names (`latest`: the last one); an InputError lists those there are."""
    if wanted == "latest" and steps:
        return steps[-1]
    if wanted.isdecimal() and int(wanted) in steps:
        return int(wanted)
    raise input_error(
        f"--{flag} {wanted}",
        f"no such checkpoint in {folder}",
        f"one of the steps there: {', '.join(map(str, steps)) or 'none'}",
        "name one of them or `latest`; --ema and --no-ema look for different files"
        if steps
        else "train stage 1 there first, or correct the folder",
    )


def _find(args: argparse.Namespace) -> tuple[Path, int]:
    if args.ae_load_dir is None:
        raise input_error(
            "--ae_load_dir", "not given", "the log_dir of a stage-1 run", "train stage 1 first, or pass it"
        )
    files = checkpoint_files(args.ae_load_dir)
    step = find_step(files.folder, files.ema_steps() if args.ema else files.steps(), "ae_load_step", args.ae_load_step)
    return (files.ema_path(step) if args.ema else files.state_path(step)), step
