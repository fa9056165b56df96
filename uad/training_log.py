"""A training's log: one JSON object per line in `log.jsonl`, and TensorBoard where asked for."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from uad.distributed import World
from uad.errors import input_error
from uad.files import write_text

LOG, CPU_SECONDS = "log.jsonl", "cpu_seconds"


@dataclass(frozen=True)
class Fraction:
    """A logged number that is one sum over images divided by another; both are scalars.

    Where images come in several parts (chunks of a batch, processes, steps), the sums add up, and not their quotients.
    """

    numerator: Tensor
    denominator: Tensor

    @classmethod
    def mean(cls, value: Tensor, images: int) -> "Fraction":
        """A mean over images as a fraction."""
        return cls(value.float() * images, torch.full_like(value, images, dtype=torch.float32))


@dataclass(frozen=True)
class Sums:
    """What several names log together: numerators and denominators (names, 2), float32, without a gradient.

    In one tensor, since a device takes as long to start on a few numbers as on all. A row is 0 where one of its numbers
    is not finite.
    """

    names: tuple[str, ...]
    values: Tensor

    @classmethod
    def of(cls, logged: Mapping[str, Tensor | Fraction], images: int) -> "Sums":
        """Of fractions, and of means over so many images."""
        fractions = [v if isinstance(v, Fraction) else Fraction.mean(v, images) for v in logged.values()]
        parts = [part.detach().float() for f in fractions for part in (f.numerator, f.denominator)]
        both = torch.stack(parts).view(-1, 2)
        return cls(tuple(logged), torch.where(torch.isfinite(both).all(1, keepdim=True), both, 0))

    def __add__(self, other: "Sums") -> "Sums":
        """The sums of both, which have the same names."""
        if self.names != other.names:
            raise ValueError(f"{self.names} cannot be added to {other.names}")
        return Sums(self.names, self.values + other.values)


class TrainingLog:
    """Means and fractions between two log lines, over all processes. Lines after the step of a resume are dropped.

    Every line has `cpu_seconds`: the CPU time that this process, all its threads, has spent since its log was begun. A
    run that goes on counts on from the last line it keeps; processes that read images are not counted.
    """

    def __init__(self, folder: Path, start: int, world: World, tensorboard: bool):
        self.path, self.world = folder / LOG, world
        self._clear()
        self.board, self._begun = None, time.process_time()
        if not world.is_main:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines(True) if _step_of(line) <= start]
            write_text(self.path, "".join(kept))
            self._begun -= json.loads(kept[-1]).get(CPU_SECONDS, 0.0) if kept else 0.0
        if tensorboard:
            self.board = _summary_writer(folder / "tensorboard", start)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.board is not None:
            self.board.close()

    def _clear(self) -> None:
        self.sums: dict[tuple[str, ...], Sums] = {}
        self.images, self.since = 0, time.perf_counter()

    def add(self, sums: Iterable[Sums], images: int) -> None:
        """Count one step's sums; nothing is copied from the device yet.

        All processes give the same names; images: of the batch over all processes.
        """
        for each in sums:
            self.sums[each.names] = self.sums[each.names] + each if each.names in self.sums else each
        self.images += images

    def write(self, step: int, extra: dict[str, float]) -> dict[str, float]:
        """Write the quotients of what was counted since the last line, and return them; none where the divisor is 0."""
        seconds = time.perf_counter() - self.since
        counted = {}
        for names in sorted(self.sums):
            counted |= dict(zip(names, self.world.mean(self.sums[names].values).tolist(), strict=True))
        quotients = {name: numerator / denominator for name, (numerator, denominator) in counted.items() if denominator}
        speed = {"images_per_second": self.images / seconds}
        self.write_values(step, quotients | extra | speed)
        self._clear()
        return quotients

    def write_values(self, step: int, values: dict[str, float]) -> None:
        """Append one line with the values given."""
        if not self.world.is_main:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | values | {CPU_SECONDS: time.process_time() - self._begun}) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def logged(path: Path, names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of these numbers in a log, by name; lines that were cut off are left out."""
    points = {name: [] for name in names}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else ()
    for line in lines:
        step = _step_of(line)
        if step < float("inf"):
            values = json.loads(line)
            for name in points.keys() & values.keys():
                points[name].append((step, values[name]))
    return points


def _step_of(line: str) -> float:
    """The step of a log line; infinity for one that was cut off, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")


def check_tensorboard() -> None:
    """InputError where the package is missing that --tensorboard needs; asked before anything is computed."""
    if find_spec("tensorboard") is None:
        found, remedy = "the package tensorboard is not installed", "pip install tensorboard, or leave the flag out"
        raise input_error("--tensorboard", found, "it, beside this project", remedy)


def _summary_writer(folder: Path, start: int):
    # Here: it takes long to import, and few need it.
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=start)
