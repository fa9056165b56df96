"""Where a comparing method's training keeps its stages, and loading all of them by the checkpoint of the last."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from torch import nn

from uad.checkpoints import CheckpointFiles, load_checkpoint
from uad.data.reading.contrast import Contrast
from uad.data.reading.settings import Reading, matching
from uad.errors import input_error
from uad.weights import load_weights, stored_weights, weights_hash


@dataclass(frozen=True)
class TrainedBaseline:
    """Networks of all stages in evaluation mode, and where they came from.

    config: the method's; reading: how its images were read; contrast: theirs, None where it is not known; command: that
    trained its last stage, where it is known; path, step: of the last stage's checkpoint; weights_hashes: by stage.
    """

    modules: dict[str, nn.Module]
    config: dict
    reading: Reading
    contrast: Contrast | None
    path: Path
    step: int
    weights_hashes: dict[str, str]
    command: str | None

    def judging(self, match_contrast: bool) -> Reading:
        """How images that are judged are read, see matching."""
        return matching(self.reading, self.contrast, match_contrast, self.path)


def kind(method: str, stage: str) -> str:
    """What a stage's checkpoints say that they are."""
    return f"{method}_{stage}"


def checkpoint_files(log_dir: Path | str, method: str, stage: str) -> CheckpointFiles:
    """The checkpoints of a stage: <log_dir>/<stage>/<method>_<stage>_<step>.pt, and ema_... with weights alone."""
    name = kind(method, stage) + "_{step:06d}.pt"
    return CheckpointFiles(Path(log_dir) / stage, name, f"ema_{name}")


def default_log_dir(method: str, dataset: str) -> Path:
    """Where a method's training on a data set lies unless a folder is named."""
    return Path(f"logs/{method}_{dataset}")


def newest_checkpoint(method: ModuleType, log_dir: Path) -> Path:
    """The newest EMA checkpoint of the last stage in `log_dir`; InputError where there is none."""
    files = checkpoint_files(log_dir, method.NAME, method.STAGES[-1])
    steps = files.ema_steps()
    if not steps:
        raise input_error(
            files.folder,
            f"no {files.ema_pattern.format(step=0).replace('000000', '*')}",
            "a checkpoint of the method's last stage",
            "train it with scripts/train_baseline.py, correct --log_dir, or pass --model_path",
        )
    return files.ema_path(steps[-1])


def load_baseline(method: ModuleType, path: Path) -> TrainedBaseline:
    """All networks of a method by the checkpoint of its last stage; those before lie in folders beside it.

    Raises InputError for missing, damaged or foreign files, and where an earlier stage is not the one trained on.
    """
    last = method.STAGES[-1]
    content = _read(path, kind(method.NAME, last))
    config = content["config"]["method"]
    modules = method.build(config)
    weights = {last: stored_weights(content)}
    sources = {last: path}
    for stage, earlier in content["config"]["earlier"].items():
        source = path.parent.parent / stage / earlier["file"]
        weights[stage] = stored_weights(_read(source, kind(method.NAME, stage)))
        sources[stage] = source
        found = weights_hash(weights[stage])
        if found != earlier["weights_hash"]:
            raise input_error(
                source, f"weights {found}", f"{earlier['weights_hash']}, on which {path} was trained", "retrain it"
            )
    for stage, state in weights.items():
        load_weights(modules[stage], state, sources[stage])
        modules[stage].eval().requires_grad_(False)
    hashes = {stage: weights_hash(weights[stage]) for stage in method.STAGES}
    reading, contrast = Reading(**content["config"]["data"]), content["config"].get("contrast")
    return TrainedBaseline(modules, config, reading, contrast, path, content["step"], hashes, content.get("command"))


def _read(path: Path, expected: str) -> dict:
    content = load_checkpoint(path)
    found = content.get("kind", "unknown content")
    if found != expected:
        raise input_error(path, f"a checkpoint of: {found}", f"one of: {expected}", "name a checkpoint of --method")
    return content
