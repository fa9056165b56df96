"""Maps and scores of images in memory, by any method."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from uad.inference import Method
from uad.neighbours import smoothed
from uad.randomness import keyed_generator
from uad.scores import image_score
from uad.sides import one_sided


class Judged(NamedTuple):
    """maps: (N, S, S) float32, not negative; reconstructions: (N, C, S, S) float32 in [0, 1]."""

    maps: np.ndarray
    reconstructions: np.ndarray

    @property
    def scores(self) -> list[float]:
        """Of the slices."""
        return [image_score(each) for each in self.maps]

    def part(self, start: int, stop: int) -> "Judged":
        """Of the images start..stop - 1."""
        return Judged(self.maps[start:stop], self.reconstructions[start:stop])

    def across_slices(self, scans: Sequence[str], places: Sequence[float], sigma: float) -> "Judged":
        """With maps averaged across the slices of each scan, whose places are in mm; see uad.neighbours."""
        maps = self.maps.copy()
        for scan in dict.fromkeys(scans):
            of_scan = np.flatnonzero([each == scan for each in scans])
            own = np.asarray(places, dtype=np.float64)[of_scan]
            maps[of_scan] = smoothed(maps[of_scan], own, sigma)
        return self._replace(maps=maps)


def judge(
    method: Method,
    images: np.ndarray,
    names: Sequence[str],
    affines: Sequence[np.ndarray] | None,
    device: torch.device,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None],
) -> Judged:
    """Run a method on images (N, C, S, S); names key their randomness, as in detection over a folder.

    affines: of the images, where their sides are to be compared, see uad.sides; advance: is told how many are done.
    """
    maps, reconstructions = [], []
    for start in range(0, len(images), batch_size):
        batch = torch.from_numpy(images[start : start + batch_size]).to(device)
        generators = [keyed_generator(seed, name, device=device) for name in names[start : start + batch_size]]
        result = method.reconstruct(batch, generators)
        found = result.anomaly_map.float()
        if affines is not None:
            found = one_sided(found, batch, affines[start : start + batch_size], names[start : start + batch_size])
        maps.append(found.cpu().numpy())
        reconstructions.append(result.image.float().cpu().numpy())
        advance(len(batch))
    return Judged(np.concatenate(maps), np.concatenate(reconstructions))
