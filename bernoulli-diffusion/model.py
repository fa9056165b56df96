"""Building and loading the diffusion model: its network together with its process."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from torch import nn

from bernoulli_diffusion.architecture import Architecture, Model, Process, model_for
from bernoulli_diffusion.ensemble import Ensemble
from bernoulli_diffusion.process import BernoulliDiffusion
from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.configuration import check_given
from uad.errors import InputError, input_error
from uad.weights import load_weights, stored_weights, weights_hash

KIND = "bernoulli_diffusion"
# What the EMA checkpoints of a run are called, whatever their rate.
EMA_FILES = "emabld*_*.pt"


@dataclass(frozen=True)
class ModelSource:
    """Which checkpoints of stage 2, and what is stated beside them.

    paths: the files, none for the newest in `folder` of the autoencoder; given: arguments of Architecture and Process
    that must be the checkpoints'.
    """

    paths: Sequence[str]
    folder: Path
    given: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedDiffusion:
    """A flip-probability network in evaluation mode, its process, and where it came from.

    shape: what network and process are; config: also code_bits, autoencoder and data settings, where they are known;
    command: that trained it, where it is known. Of several models that are joined, see joined, step and command are
    those of all.
    """

    network: nn.Module
    process: BernoulliDiffusion
    shape: Model
    path: Path
    step: int | tuple[int, ...]
    config: dict
    weights_hash: str
    command: str | None

    @property
    def identity(self) -> dict:
        """What names the weights in the facts of results: the step and their hash."""
        return {"step": self.step, "weights_hash": self.weights_hash}


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
        weights = stored_weights(content)
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
    found, damaged = [], ""
    for path in sorted(folder.glob(EMA_FILES), key=lambda p: int(p.stem.rsplit("_", 1)[1]), reverse=True):
        try:
            content = load_checkpoint(path)
        except InputError as error:
            found += [f"{path.name}: {problem.found}" for problem in error.problems]
            damaged = "copy the damaged files again, "
            continue
        if content.get("kind") == KIND and content["config"]["autoencoder"]["weights_hash"] == autoencoder_hash:
            return path
        found.append(f"{path.name}: trained on another autoencoder")
    raise input_error(
        folder,
        "; ".join(found) or "no emabld*.pt",
        f"a model trained on the autoencoder with weights {autoencoder_hash}",
        f"{damaged}train stage 2 on this autoencoder, choose the autoencoder by --ae_load_step, or pass --model_path",
    )


def load_models(
    source: ModelSource, code_shape: tuple[int, int, int], autoencoder_hash: str
) -> tuple[TrainedDiffusion, ...]:
    """The models for the autoencoder with these weights, each by itself.

    Raises InputError where they do not fit, and where what is stated contradicts a checkpoint.
    """
    models = []
    for path in source.paths or [newest_model_of(autoencoder_hash, source.folder)]:
        model = load_diffusion(path, lambda: model_for(code_shape, source.given))
        check_given(source.given, asdict(model.shape.architecture) | asdict(model.shape.process), path)
        check_codes_match(model, code_shape, autoencoder_hash)
        models.append(model)
    return tuple(models)


def load_model(source: ModelSource, code_shape: tuple[int, int, int], autoencoder_hash: str) -> TrainedDiffusion:
    """The model, or all of them as one, see load_models and joined."""
    return joined(load_models(source, code_shape, autoencoder_hash))


def joined(models: Sequence[TrainedDiffusion]) -> TrainedDiffusion:
    """The models, of one autoencoder, as one; a single one stays what it is.

    Of what they were trained on holds what holds for each: the fewest noise levels, and lesions only where all saw
    some. InputError for one that is named twice, for other noise and for other code bits.
    """
    first, *others = models
    if not others:
        return first
    for place, model in enumerate(models):
        for fact, here, there in (
            ("noise", model.shape.process, first.shape.process),
            ("code_bits", model.config["code_bits"], first.config["code_bits"]),
        ):
            if here != there:
                remedy = "average models that were trained alike"
                raise input_error(model.path, f"{fact}: {here}", f"{there}, as in {first.path}", remedy)
        same = [other.path for other in models[:place] if other.weights_hash == model.weights_hash]
        if same:
            raise input_error("--model_path", f"{model.path}, the same as {same[0]}", "other weights", "name it once")
    told = [model.config for model in models]
    config = first.config | {"lesion_share": min(config.get("lesion_share") or 0.0 for config in told)}
    if levels := [config["trained_levels"] for config in told if "trained_levels" in config]:
        config["trained_levels"] = min(levels)
    if chosen := [config["chosen"] for config in told if config.get("chosen", {}).get("real_labels")]:
        config["chosen"] = chosen[0]
    commands = [model.command for model in models if model.command]
    return replace(
        first,
        network=Ensemble([model.network for model in models]).eval(),
        step=tuple(model.step for model in models),
        config=config,
        weights_hash=hashlib.sha256("".join(model.weights_hash for model in models).encode()).hexdigest()[:16],
        command="\n".join(commands) or None,
    )


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
