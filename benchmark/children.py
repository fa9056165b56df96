"""Workloads in processes of their own, which do one run whenever they are asked.

So a variant is timed with its own memory, and with what the C library makes of it: ours as the commands set it up
(uad.memory), the released procedure plainly.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress

from benchmark.measure import timed
from benchmark.workloads import WORKLOADS, Workbench
from uad.errors import input_error
from uad.inference import peak_memory_mib

COMMAND = (sys.executable, "-m", "benchmark")


class Child:
    """A process that runs one workload, a name of WORKLOADS, with this program's flags and `more`."""

    def __init__(self, workload: str, more: Sequence = ()):
        words = [*COMMAND, *sys.argv[1:], "--workload", workload, *map(str, more)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self) -> None:
        """Have it do one run."""
        # One that has ended takes nothing any more; `answer` says so.
        with suppress(BrokenPipeError):
            self.process.stdin.write("run\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, float]:
        """Seconds per image of the run that was asked for, and the most memory held until then, in MiB."""
        line = self.process.stdout.readline()
        if not line:
            found = f"exit code {self.process.wait()}"
            raise input_error(f"a child process ({' '.join(self.process.args[1:])})", found, "0", "see its message")
        return json.loads(line)

    def run(self) -> dict[str, float]:
        """One run's answer."""
        self.ask()
        return self.answer()


@contextmanager
def started(workload: str, more: Sequence = ()) -> Iterator[Child]:
    """A child that has done its first run, which is not counted; it ends with the context."""
    child = Child(workload, more)
    with child.process:
        try:
            child.run()
            yield child
        finally:
            with suppress(BrokenPipeError):
                child.process.stdin.close()


def interleaved_children(workloads: Mapping[str, str], repeats: int) -> dict[str, list[dict[str, float]]]:
    """The answers of every repeat by variant, where all run one after the other in a repeat; variant -> workload."""
    with ExitStack() as stack:
        children = {name: stack.enter_context(started(workload)) for name, workload in workloads.items()}
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in children}
        for _ in range(repeats):
            for name, child in children.items():
                answers[name].append(child.run())
    return answers


def serve(workload: str, clock: str, bench: Workbench) -> None:
    """What a child does: one run for every line of its standard input."""
    make, images = WORKLOADS[workload]
    call = make(bench)
    for _ in sys.stdin:
        seconds = timed(call, clock, bench.device) / images(bench)
        print(json.dumps({"seconds": seconds, "memory": peak_memory_mib(bench.device)}), flush=True)
