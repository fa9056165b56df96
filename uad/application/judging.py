"""Maps and scores of images in memory, by any method."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from uad.inference import Method, Reconstruction
from uad.randomness import keyed_generator
from uad.scores import EVIDENCE_EXTRA, image_score


class Judged(NamedTuple):
    """maps: (N, S, S) float32, not negative; reconstructions: (N, C, S, S) float32 in [0, 1]; scores: of the slices."""

    maps: np.ndarray
    reconstructions: np.ndarray
    scores: list[float]

    def part(self, start: int, stop: int) -> "Judged":
        """Of the images start..stop - 1."""
        return Judged(self.maps[start:stop], self.reconstructions[start:stop], self.scores[start:stop])


def judge(
    method: Method,
    images: np.ndarray,
    names: Sequence[str],
    device: torch.device,
    batch_size: int,
    seed: int,
    kind: str,
    advance: Callable[[int], None],
) -> Judged:
    """Run a method on images (N, C, S, S); names key their randomness, as in detection over a folder.

    kind: what scores a slice as a whole, see uad.scores.image_score; advance: is told how many are done.
    """
    maps, reconstructions, scores = [], [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size]).to(device)
        generators = [keyed_generator(seed, name, device=device) for name in names[start : start + batch_size]]
        result = method.reconstruct(batch, generators)
        maps.append(result.anomaly_map.float().cpu().numpy())
        reconstructions.append(result.image.float().cpu().numpy())
        scores += [image_score(values, kind) for values in _scored(result, kind)]
        advance(len(batch))
    return Judged(np.concatenate(maps), np.concatenate(reconstructions), scores)


def _scored(result: Reconstruction, kind: str) -> np.ndarray:
    """(N, ...): of what an image's score is made."""
    if kind == "evidence":
        return result.extras[EVIDENCE_EXTRA][:, 0].float().cpu().numpy()
    return result.anomaly_map.float().cpu().numpy()
