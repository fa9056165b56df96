"""Running the project's commands one after the other, each once: what the demonstrations are made of."""

import json
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uad.errors import input_error
from uad.files import write_json

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "scripts"
STAGE1 = ROOT / "binary_autoencoder" / "train_ae_dist.py"


@dataclass(frozen=True)
class Step:
    """A command: its name for the stamp and the heading, its script and its words."""

    name: str
    script: Path
    words: str

    @property
    def command(self) -> list[str]:
        return [self.script.relative_to(ROOT).as_posix(), *shlex.split(self.words)]


def check_flags(steps: Sequence[Step]) -> None:
    """End with an error where a command does not have the flags of its words: before the first one trains for hours."""
    for step in steps:
        parser = runpy.run_path(str(step.script))["get_args_parser"]()
        script, *words = step.command
        parser.prog = Path(script).name
        parser.parse_args(words)


def run_steps(steps: Sequence[Step], stamps: Path, rerun: str) -> None:
    """Run commands in the project's folder, but for those whose stamp says that exactly this command is done.

    stamps: folder of the stamps; rerun: the command with which a user continues. Raises InputError where one fails.
    """
    for number, step in enumerate(steps, 1):
        stamp = stamps / f"{number}-{step.name.replace(' ', '-')}.json"
        _run_step(step, f"[{number}/{len(steps)}] {step.name}", stamp, rerun)


def _run_step(step: Step, heading: str, stamp: Path, rerun: str) -> None:
    if stamp.exists() and json.loads(stamp.read_text())["command"] == step.command:
        print(f"{heading}: done before")
        return
    print(f"\n{heading}\npython {shlex.join(step.command)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, *step.command], cwd=ROOT, check=False).returncode
    if code:
        raise input_error(
            step.name, f"exit code {code}", "0", f"mend what the message above names; `{rerun}` continues from here"
        )
    seconds = time.perf_counter() - start
    write_json(stamp, {"command": step.command, "seconds": round(seconds, 1)})
    print(f"{step.name}: {seconds:.0f} s", flush=True)
