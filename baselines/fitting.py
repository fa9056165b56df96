"""The stage of a method that is not trained by steps: fitted once, and kept like the weights of a trained one."""

from collections.abc import Callable, Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from baselines.checkpoints import kind
from uad.checkpoints import CheckpointFiles, check_same_configuration, described, load_checkpoint, save_checkpoint
from uad.weights import averaged_weights

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
) -> None:
    """Fit a method's only stage and write its checkpoint, unless it is there.

    images: begins batches of healthy images; facts: `data`, how they were read, `contrast`, theirs, `settings`, what a
    rerun must repeat, and `command`. Raises InputError where the folder holds a fit of other settings.
    """
    (stage,) = method.STAGES
    path = files.ema_path(FITTED)
    if path.exists():
        check_same_configuration(load_checkpoint(path)["settings"], facts["settings"], files.folder)
        return
    config, modules = method.fit(config, modules, images(), device, amp)
    config = {"method": config, "data": facts["data"], "contrast": facts["contrast"], "earlier": {}}
    content = described(kind(method.NAME, stage), FITTED, config, facts["command"]) | {"settings": facts["settings"]}
    save_checkpoint(path, content | averaged_weights(modules[stage].state_dict()))
