"""Simplex-noise fields, as AnoDDPM (3-D) and pDDPM (2-D) use in place of Gaussian noise.

A field is sum_k persistence^k S(x / f_k, y / f_k, depth / f_k) over octaves k = 0.., f_k = feature_size / 2^k, with S
OpenSimplex noise. Unlike the originals every image and channel has its own seed, and a random place and depth in the
noise: fields that begin at the lattice's origin have a fixed 0 in their corner.

Fields are computed when they are drawn (`online`), or cut from a `bank` of larger ones, which costs almost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import torch

# The vectorised functions of the package take one seed a call; a batch of fields needs its kernels.
from opensimplex.internals import _init, _noise2, _noise3
from torch import Tensor

from uad.randomness import keyed_generator

REFERENCE_SIZE = 256
# Places and depths are drawn from 0..10,000 pixels of a 256 x 256 image.
FARTHEST = 10_000.0
# Measured over 2000 fields with the default octaves and persistence, 32 x 32 to 256 x 256.
STANDARD_DEVIATION = {2: 0.592, 3: 0.504}
# Of a bank: fields, and their side in sides of an image. A field has about (side + 1)^2 places, 8 symmetries, 2 signs.
BANK_FIELDS, BANK_SIDES = 256, 2


@dataclass(frozen=True)
class SimplexNoise:
    """A kind of simplex noise; its fields have mean 0 and a standard deviation of about 0.5, or 1 if `standardise`.

    dimensions: 3, with a random depth, or 2; feature_size: of the first octave, in pixels of a 256 x 256 image: it
    scales with the images; source: `online`, or `bank`: random cuts, mirrored, turned and negated, of 256 fields that
    are the same in every run and take some seconds to make at the first draw.
    """

    dimensions: int = 3
    octaves: int = 6
    persistence: float = 0.8
    feature_size: float = 64.0
    standardise: bool = False
    source: str = "online"

    def draw(self, generators: Sequence[torch.Generator], channels: int, size: int) -> Tensor:
        """Independent fields (N, channels, size, size), float32, those of image i drawn from generator i, on its
        device."""
        device = generators[0].device
        drawn = [torch.rand(channels, 4, generator=g, device=g.device, dtype=torch.float64) for g in generators]
        uniform = torch.cat(drawn).cpu()
        if self.source == "bank":
            fields = cut(_bank(self, size, device), uniform, size)
        else:
            fields = self.compute(uniform, size, size).to(device)
        return fields.view(len(generators), channels, size, size)

    def compute(self, uniform: Tensor, size: int, image_size: int) -> Tensor:
        """Fields (F, size, size), float32, with features as for images of `image_size`.

        uniform: in [0, 1), (F, 4) float64: each field's seed and place.
        """
        uniform = uniform.numpy()
        scale = image_size / REFERENCE_SIZE
        tables = [_init(int(seed)) for seed in uniform[:, 0] * 2**53]
        octaves = np.arange(self.octaves)
        threads = torch.get_num_threads()
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        fields = octaves_summed(
            self.dimensions,
            size,
            uniform[:, 1:] * FARTHEST * scale,
            np.stack([permutation for permutation, _ in tables]),
            np.stack([gradient for _, gradient in tables]),
            self.feature_size * scale / 2.0**octaves,
            self._amplitudes(),
        )
        # When numba starts its threads it changes how many torch takes, and so how torch rounds.
        torch.set_num_threads(threads)
        return torch.from_numpy(fields)

    def _amplitudes(self) -> np.ndarray:
        amplitudes = self.persistence ** np.arange(self.octaves, dtype=float)
        if not self.standardise:
            return amplitudes
        # The octaves are nearly uncorrelated, so that their variances add up, whatever their number and persistence.
        default = 0.8 ** np.arange(6)
        one_octave = STANDARD_DEVIATION[self.dimensions] / np.linalg.norm(default)
        return amplitudes / (one_octave * np.linalg.norm(amplitudes))


@lru_cache(maxsize=2)
def _bank(noise: SimplexNoise, image_size: int, device: torch.device) -> Tensor:
    """The bank of a kind of noise for images of a size, (BANK_FIELDS, side, side) float16."""
    uniform = torch.rand(BANK_FIELDS, 4, generator=keyed_generator("simplex bank"), dtype=torch.float64)
    return noise.compute(uniform, BANK_SIDES * image_size, image_size).half().to(device)


def cut(bank: Tensor, uniform: Tensor, size: int) -> Tensor:
    """A field (size, size), float32, from a random place of the bank for each row of `uniform`, (F, 4) in [0, 1)."""
    places = bank.shape[-1] - size + 1
    # The last number chooses between 2 signs, 2 diagonals and 2 x 2 mirrorings.
    ranges = torch.tensor([len(bank), places, places, 16])
    fields = torch.empty(len(uniform), size, size, device=bank.device)
    # Copied one by one: a CPU's autocast refuses to stack float16.
    for into, (field, row, column, kind) in zip(fields, (uniform * ranges).long().tolist(), strict=True):
        piece = bank[field, row : row + size, column : column + size]
        piece = piece.T if kind & 4 else piece
        piece = piece.flip([axis for axis in (0, 1) if kind >> axis & 1])
        into.copy_(-piece if kind & 8 else piece)
    return fields


@numba.njit(cache=True, parallel=True)
def octaves_summed(dimensions, size, offsets, permutations, gradients, feature_sizes, amplitudes):
    """Fields (F, size, size) float32; offsets (F, 3) in pixels, tables (F, 256), feature sizes and amplitudes (K,)."""
    fields = np.empty((len(offsets), size, size), dtype=np.float32)
    for row in numba.prange(len(offsets) * size):
        field, i = row // size, row % size
        for j in range(size):
            value = 0.0
            for k in range(len(amplitudes)):
                x = (j + offsets[field, 0]) / feature_sizes[k]
                y = (i + offsets[field, 1]) / feature_sizes[k]
                if dimensions == 2:
                    noise = _noise2(x, y, permutations[field])
                else:
                    z = offsets[field, 2] / feature_sizes[k]
                    noise = _noise3(x, y, z, permutations[field], gradients[field])
                value += amplitudes[k] * noise
            fields[field, i, j] = value
    return fields
