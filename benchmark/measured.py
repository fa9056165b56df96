"""A command of the project in a process of its own, and what it took: the last line that it prints, as JSON.

    python -m benchmark.measured scripts/evaluation.py --results DIR

Seconds do not count what Python imports; CPU seconds are those of all processes, memory is that of the command's own.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Sequence

import torch

from uad.cli.command import run_command
from uad.errors import input_error
from uad.inference import peak_memory_mib

COMMAND = (sys.executable, "-m", "benchmark.measured")


def apart(script: str, words: Sequence) -> dict[str, float]:
    """Run a command: {"seconds": ..., "cpu": ..., "mib": the most memory held}."""
    done = subprocess.run([*COMMAND, script, *map(str, words)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise input_error(f"{script} in a child process", f"exit code {done.returncode}", "0", "see its message")
    return json.loads(done.stdout.splitlines()[-1])


def main(script: str, words: Sequence[str]) -> None:
    """Run the command in this process, and print what it took."""
    found = runpy.run_path(script)
    clock, cpu = time.perf_counter(), sum(os.times()[:4])
    found["main"](found["get_args_parser"]().parse_args(words))
    took = {"seconds": time.perf_counter() - clock, "cpu": sum(os.times()[:4]) - cpu}
    print(json.dumps(took | {"mib": peak_memory_mib(torch.device("cpu"))}))


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1], sys.argv[2:]))
