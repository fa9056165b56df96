"""Maps and scores of images in memory, by any method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from uad.inference import Method
from uad.neighbours import smoothed
from uad.randomness import keyed_generator
from uad.scores import FOCAL, ImageScore
from uad.sides import one_sided


class Judged(NamedTuple):
    """maps: (N, S, S) float32, not negative; reconstructions: (N, C, S, S) float32 in [0, 1]; image_score: what scores
    an image as a whole.
    """

    maps: np.ndarray
    reconstructions: np.ndarray
    image_score: ImageScore

    @property
    def scores(self) -> list[float]:
        """Of the slices."""
        return [self.image_score(each) for each in self.maps]

    def part(self, start: int, stop: int) -> "Judged":
        """Of the images start..stop - 1."""
        return self._replace(maps=self.maps[start:stop], reconstructions=self.reconstructions[start:stop])

    def across_slices(self, scans: Sequence[str], places: Sequence[float], sigma: float) -> "Judged":
        """With maps averaged across the slices of each scan, whose places are in mm; see uad.neighbours."""
        maps = self.maps.copy()
        for scan in dict.fromkeys(scans):
            of_scan = np.flatnonzero([each == scan for each in scans])
            own = np.asarray(places, dtype=np.float64)[of_scan]
            maps[of_scan] = smoothed(maps[of_scan], own, sigma)
        return self._replace(maps=maps)


@dataclass(frozen=True)
class Judge:
    """A method with all that its maps depend on besides the images.

    compare_sides: maps are compared with those of the other side, see uad.sides; image_score: of what is judged.
    """

    method: Method
    device: torch.device
    batch_size: int
    seed: int
    compare_sides: bool
    image_score: ImageScore = FOCAL

    def __call__(
        self,
        images: np.ndarray,
        names: Sequence[str],
        affines: Sequence[np.ndarray],
        advance: Callable[[int], object] = lambda count: None,
    ) -> Judged:
        """Maps and healthy counterparts of images (N, C, S, S), in batches.

        names: key their randomness, as in detection over a folder; affines: (4, 4) each, which tell left from right;
        advance: is told how many more are done.
        """
        maps, reconstructions = [], []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            batch = torch.from_numpy(images[part]).to(self.device)
            generators = [keyed_generator(self.seed, name, device=self.device) for name in names[part]]
            result = self.method.reconstruct(batch, generators)
            found = result.anomaly_map.float()
            if self.compare_sides:
                found = one_sided(found, batch, affines[part], names[part])
            maps.append(found.cpu().numpy())
            reconstructions.append(result.image.float().cpu().numpy())
            advance(len(batch))
        return Judged(np.concatenate(maps), np.concatenate(reconstructions), self.image_score)
