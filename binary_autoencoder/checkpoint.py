"""Finding and loading a trained autoencoder: this project's checkpoints and the released ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from torch import Tensor

from binary_autoencoder.architecture import Architecture
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.application.models import shipped_folder
from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.configuration import check_given
from uad.data.reading.facts import TrainingFacts
from uad.data.reading.settings import Reading, matching
from uad.errors import input_error
from uad.weights import load_weights, weights_hash

KIND = "binary_autoencoder"


@dataclass(frozen=True)
class AutoencoderSource:
    """Which checkpoint of stage 1, and what is stated beside it.

    load_dir: log_dir of the run; load_step: a step or `latest`; ema: its EMA or its raw weights; given: arguments of
    Architecture and Reading, and latent_shape, that must be the checkpoint's.
    """

    load_dir: str | None
    load_step: str = "latest"
    ema: bool = True
    given: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedAutoencoder:
    """An autoencoder in evaluation mode with where it came from.

    reading: how its images were read; facts: what is known of them beyond that; weights_hash: identifies the weights,
    so that what is built on them can name them; command: that trained it, where it is known.
    """

    network: BinaryAutoEncoder
    path: Path
    step: int
    reading: Reading
    facts: TrainingFacts
    weights_hash: str
    command: str | None

    @property
    def identity(self) -> dict:
        """What names the weights in the facts of results: the step and their hash."""
        return {"step": self.step, "weights_hash": self.weights_hash}

    def judging(self, match_contrast: bool) -> Reading:
        """How images that are judged are read, see matching."""
        return matching(self.reading, self.facts.contrast, match_contrast, self.path)


def checkpoint_files(log_dir: Path | str) -> CheckpointFiles:
    """Where a stage-1 run keeps its checkpoints: the released code's names."""
    return CheckpointFiles(Path(log_dir) / "saved_models", "binaryae_{step}.th", "binaryae_ema_{step}.th")


def load_autoencoder(source: AutoencoderSource) -> TrainedAutoencoder:
    """The autoencoder of a stage-1 run.

    Its architecture and the way it reads images come from the checkpoint; a released checkpoint, which holds weights
    only, is built from what is stated. Raises InputError for a missing or damaged file and for statements that
    contradict it.
    """
    path, step = _find(source)
    content = load_checkpoint(path)
    stated = {name: value for name, value in source.given.items() if name != "latent_shape"}
    if content.get("kind") == KIND:
        architecture = Architecture(**content["config"]["network"])
        reading = Reading(**content["config"]["data"])
        weights = content["weights"] if "weights" in content else content["models"]["autoencoder"]
        check_given(stated, asdict(architecture) | asdict(reading), path)
    elif any(key.startswith("ae.") for key in content):
        architecture, reading = _stated(stated, path)
        weights = released_weights(content, asdict(architecture))
    else:
        kind = content.get("kind", "unknown content")
        raise input_error(path, f"a checkpoint of: {kind}", "an autoencoder", "point --ae_load_dir to a stage-1 run")
    architecture.check_latent_shape(source.given.get("latent_shape"), path)
    network = architecture.build()
    load_weights(network, weights, path)
    network.eval().requires_grad_(False)
    facts = TrainingFacts.stored(content.get("config", {}).get("facts"))
    return TrainedAutoencoder(network, path, step, reading, facts, weights_hash(weights), content.get("command"))


def _stated(given: Mapping, path: Path) -> tuple[Architecture, Reading]:
    """Architecture and reading of a released checkpoint; what is not stated is the paper's."""
    if "n_channels" not in given:
        raise input_error(
            "--n_channels", "not given", f"the channels of {path}, which holds weights only", "pass --n_channels"
        )
    names = {field.name for field in fields(Architecture)}
    architecture = Architecture(**{name: value for name, value in given.items() if name in names})
    # As the released code read its images.
    reading = {"dataset": "custom", "img_size": architecture.img_size, "normalise": "joint"}
    stated = {field.name: given[field.name] for field in fields(Reading) if field.name in given}
    return architecture, Reading(**reading | stated)


def released_weights(content: dict[str, Tensor], config: Mapping) -> dict[str, Tensor]:
    """The autoencoder's part of a released state dict.

    Left out are the discriminator, the perceptual network and what the released network holds but never uses:
    `logsigma` and the skip convolutions of blocks of constant width.
    """
    wanted = BinaryAutoEncoder(**config).state_dict().keys()
    weights = {key.removeprefix("ae."): value.float() for key, value in content.items() if key.startswith("ae.")}
    return {k: v for k, v in weights.items() if k in wanted or not (".conv_out." in k or ".logsigma." in k)}


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


def _find(source: AutoencoderSource) -> tuple[Path, int]:
    if source.load_dir is None:
        raise input_error(
            "--ae_load_dir", "not given", "the log_dir of a stage-1 run", "train stage 1 first, or pass it"
        )
    if not Path(source.load_dir).is_dir():
        shipped = shipped_folder(source.load_dir)
        remedy = f"pass {shipped}, the shipped model of this name" if shipped else "correct it, or train stage 1 first"
        raise input_error(f"--ae_load_dir {source.load_dir}", "no such folder", "the log_dir of a stage-1 run", remedy)
    files = checkpoint_files(source.load_dir)
    steps = files.ema_steps() if source.ema else files.steps()
    step = find_step(files.folder, steps, "ae_load_step", source.load_step)
    return (files.ema_path(step) if source.ema else files.state_path(step)), step
