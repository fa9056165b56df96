"""The trivial competitors, as methods of the same seam: what a diffusion model has to beat.

Raw intensity with or without histogram equalisation follows Meissen et al., "Challenging current semi-supervised
anomaly segmentation methods for brain MRI", BrainLes 2021: where lesions are bright, thresholding does well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from binary_autoencoder.networks import BinaryAutoEncoder
from uad.checkpoints import load_checkpoint, save_checkpoint
from uad.data.reading.settings import Reading
from uad.errors import input_error
from uad.inference import Reconstruction
from uad.precision import autocast
from uad.scores import anomaly_map, balanced, body_interior, intensity_map

PCA_KIND = "pca"
# Components whose share of the largest one's variance is smaller are rounding errors.
NEGLIGIBLE = 1e-6


class RawIntensity:
    """The image is its own anomaly map: bright is abnormal, and the healthy counterpart is black.

    channel: its number, or None for the sum over channels; equalise: see `equalised`; interior: the outer rim of the
    body, with skull and scalp, counts as black; score: "paper" for the intensity itself, "smooth" and "balanced_smooth"
    for what they do to a difference.
    """

    def __init__(
        self, channel: int | None = None, equalise: bool = False, interior: bool = False, score: str = "paper"
    ):
        self.channel, self.equalise, self.interior, self.score = channel, equalise, interior, score

    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """See uad.inference.Method; nothing is random."""
        shown = equalised(images) if self.equalise else images
        inside = body_interior(images) if self.interior else None
        map_ = intensity_map(shown, self.channel, smooth=self.score != "paper", inside=inside)
        return Reconstruction(
            image=torch.zeros_like(images),
            anomaly_map=balanced(map_, self.score),
            numbers={"network_evaluations": torch.zeros(len(images))},
        )


def equalised(images: Tensor) -> Tensor:
    """Histogram equalisation, per image and channel, of images (N, C, S, S): the share of the foreground (above 0) that
    is no brighter, in (0, 1]. The background stays 0."""
    result = torch.zeros_like(images)
    for image, target in zip(images.flatten(0, 1), result.flatten(0, 1), strict=True):
        inside = image > 0
        ordered = image[inside].sort().values
        ranks = torch.searchsorted(ordered, image[inside], right=True)
        target[inside] = ranks.to(target.dtype) / max(1, len(ordered))
    return result


class PcaResidual:
    """The part of an image that the principal components of healthy images do not explain.

    mean: (C, S, S); components: (K, C * S * S), orthonormal rows. score: one of uad.scores.RESIDUAL_SCORES.
    """

    def __init__(self, mean: Tensor, components: Tensor, score: str = "paper"):
        self.mean, self.components, self.score = mean, components, score

    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """mean + W^T W (x - mean); see uad.inference.Method; nothing is random."""
        projected = [self._project(image) for image in images]
        reconstruction = torch.stack(projected)
        return Reconstruction(
            image=reconstruction,
            anomaly_map=anomaly_map(images, reconstruction, self.score),
            numbers={"network_evaluations": torch.zeros(len(images))},
        )

    def _project(self, image: Tensor) -> Tensor:
        """One image at a time: a matrix product may round differently for another batch size."""
        coefficients = self.components @ (image - self.mean).flatten()
        return self.mean + (coefficients @ self.components).reshape(self.mean.shape)


def fit_pca(slices: Dataset, n_components: int) -> tuple[Tensor, Tensor]:
    """Mean (C, S, S) and components (K, C * S * S) of the images of a data set, by descending variance.

    Exact, by the eigenvectors of the (M, M) matrix of inner products; all M images are held in memory. Raises
    InputError where the images, all together, have fewer than n_components directions of variance.
    """
    images = torch.stack([slices[i]["image"] for i in range(len(slices))])
    mean = images.mean(0)
    centred = (images - mean).flatten(1)
    variances, vectors = torch.linalg.eigh((centred @ centred.T).double())
    directions = int((variances > NEGLIGIBLE * variances[-1].clamp_min(0)).sum())
    if not 1 <= n_components <= directions:
        raise input_error(
            "--components",
            str(n_components),
            f"1..{directions}: so many directions have the {len(images)} images",
            "choose fewer components, or fit to more images",
        )
    chosen = vectors[:, -n_components:].flip(1)
    scale = variances[-n_components:].flip(0).sqrt()
    components = (chosen / scale).float().T @ centred
    return mean, components


def save_pca(path: Path | str, mean: Tensor, components: Tensor, reading: Reading, fitted_to: Mapping) -> None:
    """Keep a fit as plain tensors, with how its images were read and, as plain values, which these were."""
    config = {"data": asdict(reading), "fitted_to": dict(fitted_to)}
    save_checkpoint(path, {"kind": PCA_KIND, "mean": mean, "components": components, "config": config})


def load_pca(path: Path | str) -> tuple[Tensor, Tensor, Reading, dict | None]:
    """Mean, components, way of reading and images that `save_pca` has written, None for the images in files of earlier
    versions; InputError for anything else.
    """
    content = load_checkpoint(path)
    if content.get("kind") != PCA_KIND:
        kind = content.get("kind", "unknown content")
        raise input_error(path, f"a checkpoint of: {kind}", "principal components", "name another file")
    config = content["config"]
    return content["mean"], content["components"], Reading(**config["data"]), config.get("fitted_to")


class AutoencoderAlone:
    """The binarizing autoencoder without diffusion: what its bottleneck loses is abnormal.

    network: in evaluation mode, on the images' device; amp: off, bf16 or fp16; score: one of
    uad.scores.RESIDUAL_SCORES.
    """

    def __init__(self, network: BinaryAutoEncoder, amp: str = "off", score: str = "paper"):
        self.network, self.amp, self.score = network, amp, score

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """Encode, threshold the bits at 0.5, decode; see uad.inference.Method; nothing is random."""
        with autocast(self.amp, images.device):
            code = (self.network.encode(images) > 0.5).float()
            reconstruction = self.network.decode(code).float().clamp(0, 1)
        return Reconstruction(
            image=reconstruction,
            anomaly_map=anomaly_map(images, reconstruction, self.score),
            numbers={"network_evaluations": torch.ones(len(images))},
        )
