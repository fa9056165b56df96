"""One pair of networks with many settings of the masked denoising, on images whose codes are made once.

Settings of one L run together, batch by batch: they begin with the same noisy codes, so that the first network
evaluation of each copy, which is the only one for K = 1, is theirs in common, and so is what the autoencoder alone
makes of an image. Those that differ in the score only are denoised once. The maps are bit for bit those of detection
with each setting by itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from bernoulli_diffusion.codes import KeptCodes
from bernoulli_diffusion.method import Detection, MaskedBernoulliDiffusion
from uad.application.judging import Judge
from uad.evaluation.held_maps import HeldImages
from uad.inference import Reconstruction
from uad.scores import EVIDENCE


class Remembered:
    """A function of tensors that is called once for equal arguments, where these are worth remembering."""

    def __init__(self, function: Callable[..., Tensor], worth: Callable[..., bool]):
        self._function, self._worth = function, worth
        self.forget()

    def forget(self) -> None:
        """Begin anew, with the next batch."""
        self._known: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def __call__(self, *shown: Tensor) -> Tensor:
        """What the function gives."""
        if not self._worth(*shown):
            return self._function(*shown)
        for known, found in self._known:
            if all(map(torch.equal, known, shown)):
                return found
        found = self._function(*shown)
        self._known.append((shown, found))
        return found


@dataclass
class DenoisedOnce:
    """A detector of one batch, of which it makes the maps of further scores without denoising it again.

    method: with the first score; score: that of the next map.
    """

    method: MaskedBernoulliDiffusion
    score: str
    _found: Reconstruction | None = field(default=None, init=False)

    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """That of the method, with the map of the score; see uad.inference.Method."""
        if self._found is None:
            self._found = self.method.reconstruct(images, generators)
            return self._found
        return self.method.rescored(images, self._found, self.score)


class GridDetector:
    """Maps of held images by a detector's networks, for any L, P, K, shifts and score, and by other flip networks.

    base: the detector, whose other settings hold for all; device, batch_size, seed: as in detection over a folder,
    whose maps these are.
    """

    def __init__(
        self, base: MaskedBernoulliDiffusion, held: HeldImages, device: torch.device, batch_size: int, seed: int
    ):
        self.base, self.held = base, held
        self.device, self.batch_size, self.seed = device, batch_size, seed
        self._codes = KeptCodes(base.encode, base.code_bits)

    def maps(
        self,
        detections: Sequence[Detection],
        advance: Callable[[int], None] = lambda done: None,
        network: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> np.ndarray:
        """Anomaly maps (D, N, S, S) float32, 4 S^2 bytes each, of settings with one L.

        detections: differ from the base's settings in L, P, K, shifts and score only; advance: is told how many maps
        are done; network: in place of the base's flip network.
        """
        held, level = self.held, detections[0].noise_level
        codes = self._codes
        network = Remembered(network or self.base.network, lambda z_t, t: int(t[0]) == level)
        decode = Remembered(self.base.decode, lambda code: torch.equal(code, codes.own))
        groups: dict[Detection, list[int]] = {}
        for number, detection in enumerate(detections):
            groups.setdefault(replace(detection, score=EVIDENCE), []).append(number)
        maps = np.empty((len(detections), len(held.names), *held.images.shape[-2:]), np.float32)
        for start in range(0, len(held.names), self.batch_size):
            part = slice(start, start + self.batch_size)
            network.forget()
            decode.forget()
            for numbers in groups.values():
                codes.begin(start)
                first = detections[numbers[0]]
                method = DenoisedOnce(self._method(first, decode, network), first.score)
                judge = Judge(method, self.device, self.batch_size, self.seed, first.compare_sides)
                for number in numbers:
                    method.score = detections[number].score
                    maps[number, part] = judge(held.images[part], held.names[part], held.affines[part], advance).maps
        return maps

    def _method(self, detection: Detection, decode: Callable, network: Callable) -> MaskedBernoulliDiffusion:
        base, chosen = self.base, detection.arguments
        return MaskedBernoulliDiffusion(self._codes, decode, network, base.process, amp=base.amp, **chosen)
