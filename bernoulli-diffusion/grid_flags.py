"""The flags of a sweep: lists of values of L, P, K, shifts and score, and the combinations that they become."""

import argparse
from dataclasses import dataclass
from itertools import product

from bernoulli_diffusion.flags import detection_of
from bernoulli_diffusion.method import DETECTION_PRESETS, PROB_THRESHOLD, Detection
from uad.errors import InputError, Problem, input_error
from uad.evaluation.sweep import Setting

# The values of L that a grid has by default, by preset.
LEVELS = {"recommended": (5, 10, 20, 50), "fast": (5, 10, 20, 50), "paper": (50, 100, 200, 300)}
# What the preset has where it is among the values of a grid; else the first of these holds.
FROM_PRESET = ("shifts", "score")
GRID_PRESETS = {
    name: row | {each: (row[each],) for each in FROM_PRESET} | {"noise_level": LEVELS[name]}
    for name, row in DETECTION_PRESETS.items()
}


@dataclass(frozen=True)
class Grid:
    """What a sweep runs.

    detections: every combination of the values of L, P, K, shifts and score; skipped: those of (L, K) that cannot be,
    K > L; default: L, P and K of the preset, its shifts and score where they are among the values, else the first ones,
    and everything else as in the grid.
    """

    detections: tuple[Detection, ...]
    skipped: tuple[tuple[int, int], ...]
    default: Detection


def grid_of(args: argparse.Namespace) -> Grid:
    """What the flags of `add_detection_flags` with grid say; InputError for values that mean nothing, with all of them,
    for values that are named twice, and where no combination is left.
    """
    lists = {name: getattr(args, name) or (None,) for name in Setting._fields}
    problems = [
        Problem(f"--{name}", " ".join(map(str, values)), "different values", "name each once")
        for name, values in lists.items()
        if len(set(values)) < len(values)
    ]
    detections, skipped = [], []
    for values in product(*lists.values()):
        chosen = dict(zip(lists, values, strict=True))
        level, steps = chosen["noise_level"], chosen["denoise_steps"]
        if steps is not None and steps > level >= 1:
            skipped.append((level, steps))
            continue
        try:
            detections.append(detection_of(args, **chosen))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if not detections:
        steps, levels = (" ".join(map(str, lists[name])) for name in ("denoise_steps", "noise_level"))
        found = f"{steps}, with --noise_level {levels}"
        raise input_error("--denoise_steps", found, "a number of steps up to one of the noise levels", "change one")
    preset = DETECTION_PRESETS[args.preset]
    default = {"noise_level": preset["noise_level"], "prob_threshold": PROB_THRESHOLD, "denoise_steps": None}
    default |= {name: preset[name] if preset[name] in lists[name] else lists[name][0] for name in FROM_PRESET}
    return Grid(tuple(detections), tuple(dict.fromkeys(skipped)), detection_of(args, **default))
