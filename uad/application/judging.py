"""Maps and scores of images in memory, by any method."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from uad.inference import Method, Reconstruction
from uad.neighbours import smoothed
from uad.randomness import keyed_generator
from uad.scores import EVIDENCE_EXTRA, image_score


class Judged(NamedTuple):
    """maps: (N, S, S) float32, not negative; reconstructions: (N, C, S, S) float32 in [0, 1]; bases: (N, h, w), what
    scores the slices, and kind: how, see uad.scores.image_score.
    """

    maps: np.ndarray
    reconstructions: np.ndarray
    bases: np.ndarray
    kind: str

    @property
    def scores(self) -> list[float]:
        """Of the slices."""
        return [image_score(values, self.kind) for values in self.bases]

    def part(self, start: int, stop: int) -> "Judged":
        """Of the images start..stop - 1."""
        arrays = (array[start:stop] for array in (self.maps, self.reconstructions, self.bases))
        return Judged(*arrays, self.kind)

    def across_slices(self, scans: Sequence[str], places: Sequence[float], sigma: float) -> "Judged":
        """With maps and bases averaged across the slices of each scan, whose places are in mm; see uad.neighbours."""
        maps, bases = self.maps.copy(), self.bases.copy()
        for scan in dict.fromkeys(scans):
            of_scan = np.flatnonzero([each == scan for each in scans])
            own = np.asarray(places, dtype=np.float64)[of_scan]
            for array in (maps, bases):
                array[of_scan] = smoothed(array[of_scan], own, sigma)
        return self._replace(maps=maps, bases=bases)


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
    maps, reconstructions, bases = [], [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size]).to(device)
        generators = [keyed_generator(seed, name, device=device) for name in names[start : start + batch_size]]
        result = method.reconstruct(batch, generators)
        maps.append(result.anomaly_map.float().cpu().numpy())
        reconstructions.append(result.image.float().cpu().numpy())
        bases.append(_basis(result, kind))
        advance(len(batch))
    return Judged(np.concatenate(maps), np.concatenate(reconstructions), np.concatenate(bases), kind)


def _basis(result: Reconstruction, kind: str) -> np.ndarray:
    """(N, h, w): of what an image's score is made."""
    if kind == "evidence":
        return result.extras[EVIDENCE_EXTRA][:, 0].float().cpu().numpy()
    return result.anomaly_map.float().cpu().numpy()
