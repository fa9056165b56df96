"""Building and loading the diffusion model: its network together with its process."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bernoulli_diffusion.architecture import Architecture, Model, Process, model_for
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.checkpoints import CheckpointFiles, load_checkpoint, load_weights, weights_hash
from uad.configuration import check_given
from uad.errors import InputError, input_error

KIND = "bernoulli_diffusion"


@dataclass(frozen=True)
class ModelSource:
    """Which checkpoint of stage 2, and what is stated beside it.

    path: the file, None for the newest in `folder` of the autoencoder; given: arguments of Architecture and Process
    that must be the checkpoint's.
    """

    path: str | None
    folder: Path
    given: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedDiffusion:
    """A flip-probability network in evaluation mode, its process, and where it came from.

    shape: what network and process are; config: also code_bits, autoencoder and data settings, where they are known;
    command: that trained it, where it is known.
    """

    network: FlipUNet
    process: BernoulliDiffusion
    shape: Model
    path: Path
    step: int
    config: dict
    weights_hash: str
    command: str | None


def checkpoint_files(log_dir: Path | str, ema_rate: float) -> CheckpointFiles:
    """Where a stage-2 run keeps its checkpoints: the released code's names, with `bld` for the model's."""
    return CheckpointFiles(Path(log_dir), "bld{step:06d}.pt", f"emabld{ema_rate}_{{step:06d}}.pt")


def default_log_dir(ae_load_dir: Path | str) -> Path:
    """The stage-2 folder of an autoencoder's run, where inference looks for a model."""
    return Path(ae_load_dir) / "bernoulli_diffusion"


def load_diffusion(path: Path | str, released: Callable[[], Model] | None = None) -> TrainedDiffusion:
    """A trained model; a released checkpoint, which holds weights only, is built as `released` says.

    Raises InputError for a missing, damaged or foreign file, and for weights that do not fit.
    """
    path = Path(path)
    content = load_checkpoint(path)
    if content.get("kind") == KIND:
        config, step = content["config"], content["step"]
        weights = content["weights"] if "weights" in content else content["ema"]
        shape = Model(Architecture(**config["network"]), Process(**config["process"]))
    elif "time_embed.0.weight" in content and released is not None:
        config, step, shape = {"code_bits": "threshold"}, 0, released()
        weights = {key: value.float() for key, value in content.items()}
    else:
        kind = content.get("kind", "unknown content")
        raise input_error(path, f"a checkpoint of: {kind}", "a Bernoulli diffusion model", "name a stage-2 checkpoint")
    network, process = shape.build()
    load_weights(network, weights, path)
    network.eval().requires_grad_(False)
    return TrainedDiffusion(network, process, shape, path, step, config, weights_hash(weights), content.get("command"))


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


def load_model(source: ModelSource, code_shape: tuple[int, int, int], autoencoder_hash: str) -> TrainedDiffusion:
    """The model for the autoencoder with these weights.

    Raises InputError where they do not fit, and where what is stated contradicts the checkpoint.
    """
    path = source.path or newest_model_of(autoencoder_hash, source.folder)
    model = load_diffusion(path, lambda: model_for(code_shape, source.given))
    check_given(source.given, asdict(model.shape.architecture) | asdict(model.shape.process), path)
    check_codes_match(model, code_shape, autoencoder_hash)
    return model


def check_codes_match(model: TrainedDiffusion, code_shape: tuple[int, int, int], autoencoder_hash: str | None) -> None:
    """An InputError unless the model was made for codes of this shape and, where both are known, this autoencoder."""
    made_for = model.shape.architecture.code_shape
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
