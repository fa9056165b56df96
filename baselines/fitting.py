"""The stage of a method that is not trained by steps: fitted once, and kept like the weights of a trained one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from baselines.checkpoints import kind
from uad.checkpoints import CheckpointFiles, check_same_configuration, load_checkpoint, versions, weights_hash
from uad.files import written_whole

# The number in the checkpoint's name, where others have their steps.
FITTED = 1


def amp_of_fit(files: CheckpointFiles) -> str | None:
    """The precision that the stage was fitted in, None before it is."""
    path = files.ema_path(FITTED)
    return load_checkpoint(path)["settings"]["amp"] if path.exists() else None


def fit_stage(
    method: ModuleType,
    config: dict,
    modules: dict[str, nn.Module],
    images: Callable[[], Iterator[Tensor]],
    device: torch.device,
    amp: str,
    files: CheckpointFiles,
    facts: dict,
) -> Path:
    """Fit a method's only stage and write its checkpoint, unless it is there; the checkpoint.

    images: begins batches of healthy images; facts: `data`, how they were read, `contrast`, theirs, `settings`, what a
    rerun must repeat, and `command`. Raises InputError where the folder holds a fit of other settings.
    """
    (stage,) = method.STAGES
    path = files.ema_path(FITTED)
    if path.exists():
        check_same_configuration(load_checkpoint(path)["settings"], facts["settings"], files.folder)
        return path
    config, modules = method.fit(config, modules, images(), device, amp)
    weights = modules[stage].state_dict()
    content = {
        "kind": kind(method.NAME, stage),
        "format": 1,
        "step": FITTED,
        "config": {"method": config, "data": facts["data"], "contrast": facts["contrast"], "earlier": {}},
        "versions": versions(),
        "command": facts["command"],
        "settings": facts["settings"],
        "weights": weights,
        "weights_hash": weights_hash(weights),
    }
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path
