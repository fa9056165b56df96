"""Checkpoints: tensors and plain values only, written whole, read without running any code.

A run's folder holds, per saved step, one file with everything that resuming needs and one light file with the EMA
weights for inference. File names follow the released code.
"""

import hashlib
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch

from uad.distributed import World
from uad.errors import InputError, Problem, input_error
from uad.files import remove_leftovers, written_whole
from uad.precision import BFLOAT16_CPU_FLAGS

# What a full checkpoint holds; a file without these is not one.
STATE_KEYS = frozenset(
    {"kind", "format", "step", "config", "settings", "models", "ema", "ema_updates", "optimizers", "scaler",
     "skipped_steps"}
)  # fmt: skip
# The settings that tell images of other names, where there are as many, and others of the same names.
NAMES, CONTENTS = "names of images", "contents of images"
# So many files, evenly spread, tell whether the images are those of before: reading all would take long at every start.
LOOKED_AT = 32
CPU_INFO = Path("/proc/cpuinfo")
PACKAGES = ("torch", "torchvision", "numpy", "nibabel", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, and the project's commit."""
    found = {"python": platform.python_version()}
    found |= {name: metadata.version(name) for name in PACKAGES}
    return found | {"processor": processor(), "commit": _commit()}


def processor() -> str:
    """What computes here: the GPU where there is one, else the CPU with what of bfloat16 it has."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        text = CPU_INFO.read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    units = sorted(BFLOAT16_CPU_FLAGS.intersection(text.split()))
    return ", ".join([names[0] if names else platform.machine(), *units])


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def described(kind: str, step: int, config: dict, command: str | None) -> dict:
    """What every checkpoint says of itself; the arguments are fields of uad.training.Training."""
    return {
        "kind": kind,
        "format": 1,
        "step": step,
        "config": config,
        "versions": versions(),
        "command": command,
    }


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint whole; InputError where the disk is full or read-only."""
    # Written through a file of Python's, whose errors say what the system refused.
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load_checkpoint(path: Path | str) -> dict:
    """Read a checkpoint onto the CPU; an InputError where it is missing, damaged or holds anything but plain data."""
    path = Path(path)
    if not path.is_file():
        raise input_error(path, "no such file", "a checkpoint", "check the path")
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes surface from zipfile, the unpickler and tensor constructors as a dozen unrelated exception
        # types; here all of them mean that the file is unusable.
        reason = str(error).strip().splitlines()
        raise input_error(
            path,
            f"cannot be read ({type(error).__name__}: {reason[0][:200] if reason else 'no message'})",
            "a checkpoint of tensors and plain values, complete",
            "use another checkpoint; files that need code to be run on loading are never opened",
        ) from error
    if not isinstance(content, dict):
        raise input_error(path, f"a {type(content).__name__}", "a dictionary", "use a checkpoint of this project")
    return content


def _check_bytes(path: Path) -> None:
    """Compare the archive's contents with their checksums, which torch.load does not do; ValueError where they differ.

    Checkpoints are stored uncompressed, so that nothing is held that is larger than the file itself. Files of the
    format before torch 1.6 have no checksums.
    """
    if not is_zipfile(path):
        return
    with ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != ZIP_STORED for entry in entries):
            raise ValueError("compressed entries, which checkpoints do not have")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("entries that are together larger than the file")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of {damaged} is wrong")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict, source: Path | str) -> None:
    """Load what an optimizer has gathered (momenta, steps); its hyperparameters, as the learning rate, stay its own.

    InputError where the state is that of another optimizer.
    """
    saved, own = state["param_groups"], optimizer.state_dict()["param_groups"]
    groups = [mine | {"params": theirs["params"]} for mine, theirs in zip(own, saved, strict=False)]
    try:
        # With all saved groups, so that another number of them is refused.
        optimizer.load_state_dict({"state": state["state"], "param_groups": groups + saved[len(own) :]})
    except ValueError as error:
        raise input_error(
            source, f"the state of another optimizer: {error}", "that of --optimizer", "change one of the two"
        ) from error


def load_initial(path: Path, kind: str, state_pattern: str) -> dict:
    """The full checkpoint of another run of this kind, to begin with; an InputError says what the file is instead.

    state_pattern: what full checkpoints are called, as in CheckpointFiles; it names the one to use for a light file.
    """
    content = load_checkpoint(path)
    there, missing = content.get("kind"), sorted(STATE_KEYS - content.keys())
    if there == kind and not missing:
        return content
    remedy = "choose a full checkpoint that this project's training of the same stage wrote"
    if there == kind and "weights" in content:
        found = f"the EMA weights of {kind} alone"
        remedy = f"pass the full checkpoint beside it, {path.with_name(state_pattern.format(step=content['step']))}"
    elif there == kind:
        found = f"a checkpoint of {kind} without {', '.join(missing)}"
    elif there is not None:
        found = f"a checkpoint of {there}"
    elif content and all(map(torch.is_tensor, content.values())):
        found = "weights alone, as the released code saves them"
    else:
        found = f"no checkpoint, but a dictionary of: {', '.join(map(str, list(content)[:5])) or 'nothing'}"
    raise input_error(path, found, f"a full checkpoint of {kind}", remedy)


@dataclass(frozen=True)
class CheckpointFiles:
    """Where a run's checkpoints lie and what they are called.

    state_pattern and ema_pattern are format strings with `{step}`, e.g. `bld{step:06d}.pt`.
    """

    folder: Path
    state_pattern: str
    ema_pattern: str

    def state_path(self, step: int) -> Path:
        return self.folder / self.state_pattern.format(step=step)

    def ema_path(self, step: int) -> Path:
        return self.folder / self.ema_pattern.format(step=step)

    def steps(self) -> list[int]:
        """Steps with a full checkpoint, ascending."""
        return self._steps_of(self.state_pattern)

    def ema_steps(self) -> list[int]:
        """Steps with EMA weights, ascending."""
        return self._steps_of(self.ema_pattern)

    def _steps_of(self, pattern: str) -> list[int]:
        expression = re.compile(re.sub(r"\\\{step[^}]*\\\}", r"(\\d+)", re.escape(pattern)))
        names = (path.name for path in self.folder.glob("*")) if self.folder.is_dir() else ()
        return sorted(int(match[1]) for match in map(expression.fullmatch, names) if match)

    def save(self, step: int, state: dict, ema: dict) -> None:
        """Write both files whole, the full one last: where it exists, the other one does too.

        InputError where the disk is full or read-only; what is there stays.
        """
        save_checkpoint(self.ema_path(step), ema)
        save_checkpoint(self.state_path(step), state)

    def prune(self, step: int, keep: int, keep_every: int) -> None:
        """Delete all but the last `keep` checkpoints up to `step` and those at multiples of `keep_every` (0: none).

        Later ones are damaged, or the run would have begun with them: they do not count. Of each pair the full one
        goes last, so that an interrupted deletion is completed by the next. Temporary files of a killed process go too.
        """
        for old in [s for s in self.steps() if s <= step][:-keep]:
            if not (keep_every and old % keep_every == 0):
                self.ema_path(old).unlink(missing_ok=True)
                self.state_path(old).unlink(missing_ok=True)
        remove_leftovers(self.folder)

    def load(self, step: int, kind: str | None = None) -> dict:
        """The full checkpoint of a step; InputError where it is damaged or foreign: not of this step, not of `kind`."""
        path = self.state_path(step)
        state = load_checkpoint(path)
        missing = sorted(STATE_KEYS - state.keys())
        if missing:
            raise input_error(path, f"no {', '.join(missing)}", "a full checkpoint of this run", "remove this file")
        found, expected = f"{state['kind']}, step {state['step']}", f"{kind or state['kind']}, step {step}"
        if found != expected:
            raise input_error(path, f"a checkpoint of {found}", expected, "remove this file")
        return state

    def newest_valid(self, kind: str | None = None) -> tuple[dict | None, list[str]]:
        """The newest full checkpoint that can be read (None if there is none), and what was wrong with newer ones."""
        complaints = []
        for step in reversed(self.steps()):
            try:
                return self.load(step, kind), complaints
            except InputError as error:
                complaints.append(str(error))
        return None, complaints


def newest_state(files: CheckpointFiles, world: World, kind: str) -> tuple[dict | None, list[str]]:
    """A run's newest full checkpoint that can be read, and what was wrong with newer ones.

    The main process chooses, so that all begin with the same step; the complaints are its own. None where there are no
    checkpoints; InputError where there are some, none of which can be used.
    """
    state, complaints = world.on_main(lambda: _newest_usable(files, kind)) or (None, [])
    step = world.told_by_main(lambda: state["step"] if state else 0)
    if step and state is None:
        state = files.load(step, kind)
    return state, complaints


def _newest_usable(files: CheckpointFiles, kind: str) -> tuple[dict | None, list[str]]:
    state, complaints = files.newest_valid(kind)
    if complaints and state is None:
        raise input_error(
            files.folder,
            f"{len(complaints)} checkpoint(s), none of which can be used: {complaints[0]}",
            "a whole checkpoint of this run, or none",
            "restore one, or move them away to begin anew",
        )
    return state, complaints


def told_images(names: Sequence[str], paths: Sequence[Path]) -> dict:
    """What a run's settings say of its training images: how many there are, a hash of their names, and one of the bytes
    of some of their files.
    """
    contents = hashlib.sha256()
    for path in paths[:: -(-len(paths) // LOOKED_AT)]:
        contents.update(path.read_bytes())
    hashes = {NAMES: hashlib.sha256("\n".join(names).encode()), CONTENTS: contents}
    return {"images": len(names), **{key: found.hexdigest()[:16] for key, found in hashes.items()}}


def check_same_configuration(saved: dict, given: dict, folder: Path) -> None:
    """An InputError listing every setting in which a run's folder and the command differ."""
    problems = [
        Problem(
            f"--{key}",
            f"{given.get(key)!r}{_follows(key)}, while the run in {folder} has {saved.get(key)!r}",
            "the same settings as those the run began with",
            f"{_remedy(key, saved.get(key))}, or choose another --log_dir",
        )
        for key in sorted(saved.keys() | given.keys())
        # Runs of earlier versions did not tell names and contents.
        if saved.get(key) != given.get(key) and not (key in (NAMES, CONTENTS) and key not in saved)
    ]
    if problems:
        raise InputError(problems)


def _follows(key: str) -> str:
    return " (it follows --train_steps unless it is given)" if key == "lr_anneal_steps" else ""


def _remedy(key: str, value) -> str:
    """What to type for a setting to have a value again."""
    if key == "images" or " " in key:
        return "restore what the run began with"
    if value is None or value is False:
        return f"leave --{key} out"
    words = "" if value is True else f" {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"
    return f"pass --{key}{words}"
