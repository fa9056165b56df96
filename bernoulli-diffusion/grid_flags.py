"""The flags of a sweep: lists of values of L, P and K, and the combinations that they become."""

import argparse
from dataclasses import dataclass
from itertools import product

from bernoulli_diffusion.flags import PROB_THRESHOLD, detection_with
from bernoulli_diffusion.method import DETECTION_PRESETS, Detection
from uad.errors import InputError, Problem, input_error

# The values of L that a grid has by default, by preset.
LEVELS = {"recommended": (5, 10, 20, 50), "fast": (5, 10, 20, 50), "paper": (50, 100, 200, 300)}
GRID_PRESETS = {name: row | {"noise_level": LEVELS[name]} for name, row in DETECTION_PRESETS.items()}


@dataclass(frozen=True)
class Grid:
    """What a sweep runs.

    detections: every combination of the values of L, P and K; skipped: those of (L, K) that cannot be, K > L; default:
    L, P and K of the preset, everything else as in the grid.
    """

    detections: tuple[Detection, ...]
    skipped: tuple[tuple[int, int], ...]
    default: Detection


def grid_of(args: argparse.Namespace) -> Grid:
    """What the flags of `add_detection_flags` with grid say; InputError for values that mean nothing, with all of them,
    for values that are named twice, and where no combination is left.
    """
    levels, thresholds, steps = args.noise_level, args.prob_threshold, args.denoise_steps or (None,)
    lists = {"--noise_level": levels, "--prob_threshold": thresholds, "--denoise_steps": steps}
    problems = [
        Problem(flag, " ".join(map(str, values)), "different values", "name each once")
        for flag, values in lists.items()
        if len(set(values)) < len(values)
    ]
    detections, skipped = [], []
    for level, threshold, number in product(levels, thresholds, steps):
        if number is not None and number > level >= 1:
            skipped.append((level, number))
            continue
        try:
            detections.append(detection_with(args, level, threshold, number))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(list(dict.fromkeys(problems)))
    if not detections:
        found = f"{' '.join(map(str, steps))}, with --noise_level {' '.join(map(str, levels))}"
        raise input_error("--denoise_steps", found, "a number of steps up to one of the noise levels", "change one")
    default = detection_with(args, DETECTION_PRESETS[args.preset]["noise_level"], PROB_THRESHOLD, None)
    return Grid(tuple(detections), tuple(dict.fromkeys(skipped)), default)
