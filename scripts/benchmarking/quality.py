"""AP and best Dice of our detection by the number of denoising steps, their spacing and the score, over seeds."""

import argparse
from statistics import mean

import numpy as np
import torch

from benchmarking.workloads import Workbench
from bernoulli_diffusion.detect import SPACINGS
from binary_autoencoder.checkpoint import load_autoencoder
from uad.benchmark.quality import pooled_quality
from uad.benchmark.tables import markdown
from uad.data.folder import SliceFolder
from uad.data.opening import open_slices
from uad.randomness import keyed_generator
from uad.scores import SCORES, anomaly_map

NUMBERS = ("ap", "best_dice")


def quality_curve(args: argparse.Namespace, bench: Workbench) -> tuple[dict, str]:
    """Rows of every spacing, K and score with means over seeds and the paired difference to the greatest K."""
    data = load_autoencoder(args).data
    folders = [open_slices(args, data, folder) for folder in (args.data_dir, args.healthy_dir) if folder]
    images, labels, names = _read(folders)
    steps = sorted({k for k in args.quality_steps if k <= bench.noise_level})
    # Where every level is visited there is nothing to space.
    settings = [(s, k) for k in steps for s in SPACINGS if s == SPACINGS[0] or k < bench.noise_level]
    found = {
        setting: [_qualities(bench, images, labels, names, *setting, seed) for seed in range(args.quality_seeds)]
        for setting in settings
    }
    reference = found[SPACINGS[0], steps[-1]]
    rows = []
    for (spacing, k), seeds in found.items():
        for score in SCORES:
            row = {"spacing": spacing, "steps": k, "score": score}
            for number in NUMBERS:
                values = [quality[score][number] for quality in seeds]
                gains = [v - r[score][number] for v, r in zip(values, reference, strict=True)]
                row |= {number: mean(values), f"{number}_gain": (min(gains), mean(gains), max(gains))}
            rows.append(row)
    head = ("score", "spacing", "K", "AP", f"to K = {steps[-1]}", "best Dice", f"to K = {steps[-1]}")
    rows.sort(key=lambda row: (row["score"], row["spacing"], row["steps"]))
    table = [
        (r["score"], r["spacing"], r["steps"], *(_cell(r, n, part) for n in NUMBERS for part in (0, 1))) for r in rows
    ]
    note = f"{len(images)} images, {args.quality_seeds} seeds; differences are paired by seed: mean (least..greatest)."
    return {"rows": rows, "images": len(images)}, f"{markdown(head, table)}\n\n{note}"


def _cell(row: dict, number: str, part: int) -> str:
    if part == 0:
        return f"{row[number]:.3f}"
    least, middle, greatest = row[f"{number}_gain"]
    return f"{middle:+.3f} ({least:+.3f}..{greatest:+.3f})"


def _read(folders: list[SliceFolder]) -> tuple[torch.Tensor, np.ndarray, list[str]]:
    """Images (N, C, S, S), labels (N, S, S), zero where there are none, and names."""
    items = [folder[i] for folder in folders for i in range(len(folder))]
    images = torch.stack([item["image"] for item in items])
    blank = torch.zeros(images.shape[-2:])
    labels = torch.stack([item["label"].float() if "label" in item else blank for item in items])
    return images, labels.numpy() > 0, [item["name"] for item in items]


def _qualities(bench: Workbench, images, labels, names, spacing: str, steps: int, seed: int) -> dict[str, dict]:
    """Both numbers for every score, from one detection of all images."""
    method = bench.method(bench.amp, steps, spacing=spacing, shifts=bench.shifts)
    maps: dict[str, list[np.ndarray]] = {score: [] for score in SCORES}
    for start in range(0, len(images), bench.batch):
        part = slice(start, start + bench.batch)
        batch = images[part].to(bench.device)
        result = method.reconstruct(batch, [keyed_generator(seed, n, device=bench.device) for n in names[part]])
        for score in SCORES:
            evidence = result.extras["flip_probability"][:, 0]
            maps[score].append(anomaly_map(batch, result.image, score, evidence).cpu().numpy())
    return {score: pooled_quality(np.concatenate(parts), labels) for score, parts in maps.items()}
