"""The flags of a sweep: lists of values of L, P, K, shifts, score and models, and the combinations that they become."""

import argparse
from dataclasses import dataclass
from itertools import product

from bernoulli_diffusion.flags import detection_of
from bernoulli_diffusion.method import DETECTION_PRESETS, PROB_THRESHOLD, Detection
from uad.cli.flags import add
from uad.errors import InputError, Problem, input_error
from uad.evaluation.sweep import Setting

# The values of L that a grid has by default, by preset.
LEVELS = {"recommended": (5, 10, 20, 50), "fast": (5, 10, 20, 50), "paper": (50, 100, 200, 300)}
# What the preset has where it is among the values of a grid; else the first of these holds.
FROM_PRESET = ("shifts", "score", "members")
GRID_PRESETS = {
    name: row | {each: (row[each],) for each in ("shifts", "score")} | {"noise_level": LEVELS[name]}
    for name, row in DETECTION_PRESETS.items()
}


@dataclass(frozen=True)
class Grid:
    """What a sweep runs.

    detections: every combination of the values of L, P, K, shifts, score and models; skipped: those of (L, K) that
    cannot be, K > L; default: L, P and K of the preset, its shifts and score, and a single model, where they are among
    the values, else the first ones, and everything else as in the grid.
    """

    detections: dict[Setting, Detection]
    skipped: tuple[tuple[int, int], ...]
    default: tuple[Setting, Detection]


def add_members_flag(group) -> None:
    """--members, for a parser with the flags of `add_model_source_flags`."""
    add(
        group,
        "--members",
        type=int,
        nargs="+",
        help="how many models are averaged, counted from the first of --model_path",
        shown="1 and all of --model_path",
    )


def grid_of(args: argparse.Namespace) -> Grid:
    """What the flags of `add_detection_flags` with grid and of `add_members_flag` say; InputError for values that mean
    nothing, with all of them, for values that are named twice, and where no combination is left.
    """
    most = len(args.model_path or [None])
    lists = {name: getattr(args, name) or (None,) for name in Setting._fields}
    lists["members"] = args.members or tuple(dict.fromkeys((1, most)))
    problems = [
        Problem(f"--{name}", " ".join(map(str, values)), "different values", "name each once")
        for name, values in lists.items()
        if len(set(values)) < len(values)
    ]
    problems += [
        Problem("--members", str(members), f"1 to {most}, the models of --model_path", "change it, or name more models")
        for members in lists["members"]
        if not 1 <= members <= most
    ]
    detections, skipped = {}, []
    for values in product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        level, steps = chosen["noise_level"], chosen["denoise_steps"]
        if steps is not None and steps > level >= 1:
            skipped.append((level, steps))
            continue
        try:
            setting, detection = _combination(args, **chosen)
        except InputError as error:
            problems += error.problems
            continue
        detections[setting] = detection
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if not detections:
        steps, levels = (" ".join(map(str, lists[name])) for name in ("denoise_steps", "noise_level"))
        found = f"{steps}, with --noise_level {levels}"
        raise input_error("--denoise_steps", found, "a number of steps up to one of the noise levels", "change one")
    preset = DETECTION_PRESETS[args.preset] | {"members": 1}
    default = {"noise_level": preset["noise_level"], "prob_threshold": PROB_THRESHOLD, "denoise_steps": None}
    default |= {name: preset[name] if preset[name] in lists[name] else lists[name][0] for name in FROM_PRESET}
    return Grid(detections, tuple(dict.fromkeys(skipped)), _combination(args, **default))


def _combination(args: argparse.Namespace, members: int, **chosen) -> tuple[Setting, Detection]:
    """A setting, with K where that is left to L, and how scans are judged by it."""
    detection = detection_of(args, **chosen)
    return Setting(*(getattr(detection, name) for name in chosen), members=members), detection
