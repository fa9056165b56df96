"""AP and best Dice of our detection, over seeds: by preset, and by steps and score."""

from dataclasses import replace
from statistics import mean

import numpy as np
import torch

from benchmark.options import Options
from benchmark.pooled import pooled_quality
from benchmark.tables import markdown
from benchmark.workloads import Workbench
from bernoulli_diffusion.method import DETECTION_PRESETS, default_steps
from binary_autoencoder.checkpoint import AutoencoderSource, load_autoencoder
from uad.data.reading.opening import open_slices
from uad.randomness import keyed_generator
from uad.scores import SCORES, anomaly_map

NUMBERS = ("ap", "best_dice")


def quality_of_presets(options: Options, bench: Workbench) -> tuple[dict, str]:
    """Rows of every detection preset with means over seeds and the paired difference to `paper`, which is the released
    procedure on the same weights."""
    data = _read(options)
    found = {}
    steps = {name: default_steps(preset["noise_level"], name) for name, preset in DETECTION_PRESETS.items()}
    for name, preset in DETECTION_PRESETS.items():
        chosen = replace(bench, noise_level=preset["noise_level"], shifts=preset["shifts"])
        qualities = (_qualities(chosen, *data, steps[name], seed) for seed in range(options.quality_seeds))
        found[name] = [quality[preset["score"]] for quality in qualities]
    rows = []
    for name, preset in DETECTION_PRESETS.items():
        row = {"preset": name, "score": preset["score"], "evaluations": steps[name] * preset["shifts"]}
        rows.append(row | _summary(found[name], found["paper"]))
    head = ("preset", "score", "evaluations", "AP", "to `paper`", "best Dice", "to `paper`")
    table = [(r["preset"], r["score"], r["evaluations"], *_cells(r)) for r in rows]
    return _section(options, rows, head, table, len(data[0]))


def quality_curve(options: Options, bench: Workbench) -> tuple[dict, str]:
    """Rows of every K and score with means over seeds and the paired difference to the greatest K."""
    data = _read(options)
    steps = sorted({k for k in options.quality_steps if k <= bench.noise_level})
    found = {k: [_qualities(bench, *data, k, seed) for seed in range(options.quality_seeds)] for k in steps}
    reference = found[steps[-1]]
    rows = [
        {"steps": k, "score": score}
        | _summary([quality[score] for quality in seeds], [quality[score] for quality in reference])
        for k, seeds in found.items()
        for score in SCORES
    ]
    head = ("score", "K", "AP", f"to K = {steps[-1]}", "best Dice", f"to K = {steps[-1]}")
    rows.sort(key=lambda row: (row["score"], row["steps"]))
    table = [(r["score"], r["steps"], *_cells(r)) for r in rows]
    return _section(options, rows, head, table, len(data[0]))


def _summary(seeds: list[dict], reference: list[dict]) -> dict:
    """Means over seeds, and least, mean and greatest of the differences to the reference's, seed by seed."""
    summary = {}
    for number in NUMBERS:
        values = [quality[number] for quality in seeds]
        gains = [v - r[number] for v, r in zip(values, reference, strict=True)]
        summary |= {number: mean(values), f"{number}_gain": (min(gains), mean(gains), max(gains))}
    return summary


def _cells(row: dict) -> list[str]:
    cells = []
    for number in NUMBERS:
        least, middle, greatest = row[f"{number}_gain"]
        cells += [f"{row[number]:.3f}", f"{middle:+.3f} ({least:+.3f}..{greatest:+.3f})"]
    return cells


def _section(options: Options, rows: list[dict], head: tuple, table: list, images: int) -> tuple[dict, str]:
    note = f"{images} images, {options.quality_seeds} seeds, each slice by itself, sides not compared; "
    note += "differences are paired by seed: mean (least..greatest)."
    return {"rows": rows, "images": images}, f"{markdown(head, table)}\n\n{note}"


def _read(options: Options) -> tuple[torch.Tensor, np.ndarray, list[str]]:
    """Images (N, C, S, S), labels (N, S, S), zero where there are none, and names, of both folders."""
    reading = load_autoencoder(AutoencoderSource(options.ae_load_dir)).reading
    folders = [open_slices(folder, reading) for folder in (options.data_dir, options.healthy_dir) if folder]
    items = [folder[i] for folder in folders for i in range(len(folder))]
    images = torch.stack([item["image"] for item in items])
    blank = torch.zeros(images.shape[-2:])
    labels = torch.stack([item["label"].float() if "label" in item else blank for item in items])
    return images, labels.numpy() > 0, [item["name"] for item in items]


def _qualities(bench: Workbench, images, labels, names, steps: int, seed: int) -> dict[str, dict]:
    """Both numbers for every score, from one detection of all images."""
    method = bench.method(bench.amp, steps, shifts=bench.shifts)
    maps: dict[str, list[np.ndarray]] = {score: [] for score in SCORES}
    for start in range(0, len(images), bench.batch):
        part = slice(start, start + bench.batch)
        batch = images[part].to(bench.device)
        result = method.reconstruct(batch, [keyed_generator(seed, n, device=bench.device) for n in names[part]])
        for score in SCORES:
            evidence = result.extras["flip_probability"][:, 0]
            maps[score].append(anomaly_map(batch, result.image, score, evidence).cpu().numpy())
    return {score: pooled_quality(np.concatenate(parts), labels) for score, parts in maps.items()}
