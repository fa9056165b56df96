"""Masked Bernoulli diffusion as a method of anomaly detection: image -> code -> masked denoising -> image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bernoulli_diffusion.detect import MaskedDenoising, masked_denoise
from bernoulli_diffusion.model import TrainedDiffusion
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.shifts import DECODED, SHIFTS, mean_of_shifted, shifted
from uad.best import chosen_by_labels
from uad.configuration import check_values
from uad.cuda_graphs import GraphedInference
from uad.data.reading.contrast import Contrast
from uad.films import Film
from uad.inference import Reconstruction
from uad.precision import autocast, prepare_inference
from uad.randomness import uniform_field
from uad.scores import EVIDENCE, EVIDENCE_EXTRA, SCORES, anomaly_map
from uad.suited import suited_to

METHOD = "masked Bernoulli diffusion"
CODE_BITS = ("threshold", "sample")
# P where no other is chosen.
PROB_THRESHOLD = 0.5
# What a detection chooses that is no argument of the method, for any can have it.
NOT_THE_METHODS = ("compare_sides", "match_contrast")
# `recommended` is what the measurements in docs/notebook favour, `fast` the same of one copy of an image, `paper` the
# paper's own choice.
DETECTION_PRESETS = {
    "recommended": {"noise_level": 10, "shifts": 4, "score": "evidence", "compare_sides": None, "match_contrast": None},
    "fast": {"noise_level": 10, "shifts": 1, "score": "evidence", "compare_sides": None, "match_contrast": None},
    "paper": {"noise_level": 200, "shifts": 1, "score": "paper", "compare_sides": False, "match_contrast": False},
}
# So many denoising steps find at least as much as every step does; up to ONE_STEP_LEVEL a single step does
# (docs/SPEED.md).
ENOUGH_STEPS, ONE_STEP_LEVEL = 5, 100


def default_steps(noise_level: int, preset: str) -> int:
    """K, the denoising steps from level L = noise_level to 0 with a detection preset."""
    if preset == "paper":
        return noise_level
    return 1 if noise_level <= ONE_STEP_LEVEL else ENOUGH_STEPS


def plain(value):
    """A scalar of NumPy or PyTorch as a number of Python, a list as a tuple; all else as it is."""
    if isinstance(value, list):
        return tuple(value)
    return value.item() if isinstance(value, (np.generic, Tensor)) and np.ndim(value) == 0 else value


def is_whole(value) -> bool:
    """Whether it is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value) -> bool:
    """Whether it is a real number, which True is not."""
    return is_whole(value) or isinstance(value, float)


def kind_of(name: str, value) -> tuple[str, bool]:
    """What is expected of a field of Detection, and whether the value is that."""
    words = {"code_bits": (*CODE_BITS, None), "score": tuple(SCORES), "shifts": tuple(SHIFTS)}
    if name in words:
        expected = [word for word in words[name] if word is not None]
        return f"one of {', '.join(map(str, expected))}", type(value) in (int, str, type(None)) and value in words[name]
    if name in NOT_THE_METHODS:
        return "True or False", isinstance(value, bool | None)
    if name == "polarity":
        signs = isinstance(value, tuple) and all(is_whole(sign) and sign in (-1, 0, 1) for sign in value)
        return "1, -1 or 0 for each channel", value is None or signs
    if name == "prob_threshold":
        return "a probability in 0..1", is_number(value)
    return "a whole number", is_whole(value)


@dataclass(frozen=True)
class Detection:
    """How scans are judged; the fields are the arguments of MaskedBernoulliDiffusion of the same names.

    code_bits: None for what the model was trained with; compare_sides: maps are compared with those of the other side,
    which is done to any method's, see uad.sides, None for what suits the data set; match_contrast: images are brought
    towards the contrast of the training images when they are read, see uad.data.reading.contrast, None for where the
    model stores it.
    """

    noise_level: int
    prob_threshold: float
    denoise_steps: int
    shifts: int
    code_bits: str | None
    score: str
    polarity: tuple[int, ...] | None
    compare_sides: bool | None
    match_contrast: bool | None

    def __post_init__(self):
        """InputError for values that mean nothing."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        check_values((f"--{name}", value, *kind_of(name, value)) for name, value in values.items())
        level, steps = self.noise_level, self.denoise_steps
        check_values(
            [
                ("--noise_level", level, "1 or more", level >= 1),
                ("--prob_threshold", self.prob_threshold, "a probability in 0..1", 0 <= self.prob_threshold <= 1),
                ("--denoise_steps", steps, f"1..{level}, the noise level", level < 1 or 1 <= steps <= level),
            ]
        )

    @classmethod
    def preset(cls, name: str = "recommended", /, **chosen) -> "Detection":
        """That of DETECTION_PRESETS but for what is chosen, in which scalars of NumPy and PyTorch count as numbers.

        InputError for a field or a value that there is not.
        """
        known = [field.name for field in fields(cls)]
        presets = list(DETECTION_PRESETS)
        check_values([("--preset", name, f"one of {', '.join(presets)}", name in presets)])
        check_values([(each, value, f"one of {', '.join(known)}", each in known) for each, value in chosen.items()])
        chosen = {each: plain(value) for each, value in chosen.items()}
        values = {"prob_threshold": PROB_THRESHOLD, "code_bits": None, "polarity": None}
        values |= DETECTION_PRESETS[name] | chosen
        level = values["noise_level"]
        steps = default_steps(level, name) if is_whole(level) else 1  # else the level is refused
        return cls(**{"denoise_steps": steps, **values})

    @property
    def arguments(self) -> dict:
        """The fields that are arguments of MaskedBernoulliDiffusion."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_THE_METHODS}

    def suited(self, config: Mapping, contrast: Contrast | None) -> "Detection":
        """The same with what suits a model, by its checkpoint's config, where nothing is chosen: the code bits that it
        was trained with, sides compared where those of its data set are alike, and the contrast matched that its
        autoencoder's checkpoint stores, which those of earlier versions do not.
        """
        sides, match = self.compare_sides, self.match_contrast
        return replace(
            self,
            code_bits=self.code_bits or config["code_bits"],
            compare_sides=suited_to(config.get("data", {}).get("dataset")).compare_sides if sides is None else sides,
            match_contrast=contrast is not None if match is None else match,
        )

    def completed(self, model: TrainedDiffusion, contrast: Contrast | None) -> "Detection":
        """The same as suits the model, see suited; InputError for a noise level that its process does not have."""
        model.shape.process.check_level(self.noise_level, "noise_level")
        return self.suited(model.config, contrast)


def notices(detection: Detection, model: TrainedDiffusion) -> list[str]:
    """What to know where a model was not trained for what is asked of it."""
    found = []
    if detection.score == EVIDENCE and not model.config.get("lesion_share"):
        found.append("This model learned from noise alone, as in the paper: --preset paper is meant for it.")
    if model.config.get("chosen", {}).get("real_labels"):
        found.append(chosen_by_labels(model.config["chosen"]))
    levels = model.config.get("trained_levels", detection.noise_level)
    if detection.noise_level > levels:
        found.append(
            f"This model learned noise of up to {levels} steps and does not know that of --noise_level "
            f"{detection.noise_level}: leave the flag out, or train stage 2 with --train_noise_levels "
            f"{detection.noise_level} or --preset paper."
        )
    return found


class MaskedBernoulliDiffusion:
    """The detector.

    encode: images (N, C, S, S) -> bit probabilities (N, K, h, w); decode: bits -> images; network and process: the
    diffusion model; code_bits: `threshold` probabilities at 0.5, or `sample` them; amp: off, bf16 or fp16, for the
    networks only; score, polarity: see uad.scores; shifts: how many copies of an image, shifted by half a code
    position, are averaged (1, 2 or 4).
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
        network: nn.Module,
        process: BernoulliDiffusion,
        noise_level: int = 200,
        prob_threshold: float = PROB_THRESHOLD,
        denoise_steps: int | None = None,
        code_bits: str = "threshold",
        amp: str = "off",
        score: str = "paper",
        polarity: Sequence[int] | None = None,
        shifts: int = 1,
    ):
        self.encode, self.decode, self.network, self.process = encode, decode, network, process
        self.noise_level, self.prob_threshold, self.denoise_steps = noise_level, prob_threshold, denoise_steps
        self.code_bits, self.amp = code_bits, amp
        self.score, self.polarity, self.shifts = score, polarity, shifts

    @torch.inference_mode()
    def reconstruct(self, images: Tensor, generators: Sequence[torch.Generator]) -> Reconstruction:
        """Reconstruction and anomaly map, with the autoencoder's own reconstruction, the latent mask (N, K, h, w) and
        the flip probability (N, 2, h, w), mean and maximum over the bits of a position, as extras.

        Of several shifted copies the flip probability is the mean, on the image's grid (N, 2, H, W); the reconstruction
        is the mean of the first DECODED; everything else is that of the first copy, which is not shifted.
        """
        first = self._of_copy(images, generators)
        half = images.shape[-1] // first.outcome.code.shape[-1] // 2
        shifts = [(half * down, half * right) for down, right in SHIFTS[self.shifts]]
        copies = [first, *(self._of_copy(shifted(images, *shift), generators) for shift in shifts[1:])]
        decoded = [self._decoded(copy.outcome.code) for copy in copies[:DECODED]]
        reconstruction = mean_of_shifted(decoded, shifts[:DECODED])
        flip = first.flip
        if len(copies) > 1:
            size = images.shape[-2:]
            fine = [F.interpolate(copy.flip, size, mode="bilinear", align_corners=False) for copy in copies]
            flip = mean_of_shifted(fine, shifts)
        evaluations = len(copies) * (self.denoise_steps or self.noise_level)
        mask, code = first.outcome.mask, first.outcome.code
        return Reconstruction(
            image=reconstruction,
            anomaly_map=anomaly_map(images, reconstruction, self.score, flip[:, 0], self.polarity),
            extras={
                "autoencoder": self._decoded(first.code),
                "latent_mask": mask.to(torch.uint8),
                EVIDENCE_EXTRA: flip,
            },
            numbers={
                "network_evaluations": torch.full((len(images),), evaluations),
                "mask_share": mask.float().mean((1, 2, 3)),
                "changed_share": (code != first.code).float().mean((1, 2, 3)),
            },
        )

    @torch.inference_mode()
    def rescored(self, images: Tensor, found: Reconstruction, score: str) -> Reconstruction:
        """What `reconstruct` found for these images, with the map of another score."""
        evidence = found.extras[EVIDENCE_EXTRA][:, 0]
        return replace(found, anomaly_map=anomaly_map(images, found.image, score, evidence, self.polarity))

    @torch.inference_mode()
    def film(self, image: Tensor, generator: torch.Generator, most: int) -> Film:
        """The denoising of an image (C, S, S) step by step, as `reconstruct` denoises its first copy, which is not
        shifted; at most so many frames, evenly spread, with the first and the last.
        """
        levels, codes, masks = [0], [], []

        def watch(level: int, code: Tensor, mask: Tensor) -> None:
            levels.append(level)
            codes.append(code)
            masks.append(mask.clone())  # it grows in place

        copy = self._of_copy(image[None], [generator], watch)
        codes, masks = [copy.code, *codes], [torch.zeros_like(masks[0]), *masks]
        frames = torch.linspace(0, len(codes) - 1, min(most, len(codes))).round().long().unique().tolist()
        # One at a time: all together would take as much memory as a batch of so many images.
        images = torch.cat([self._decoded(codes[frame]) for frame in frames])
        bits, shares = (torch.cat([each[frame] for frame in frames]).float().mean(1) for each in (codes, masks))
        return Film([levels[frame] for frame in frames], *(each.cpu().numpy() for each in (bits, shares, images)))

    def _of_copy(
        self,
        images: Tensor,
        generators: Sequence[torch.Generator],
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> "_Copy":
        with autocast(self.amp, images.device):
            code = self.bits(self.encode(images), generators)

        def flip_log_odds(z_t: Tensor, t: Tensor) -> Tensor:
            with autocast(self.amp, images.device):
                return self.network(z_t, t)

        outcome = masked_denoise(
            flip_log_odds,
            code,
            self.process,
            generators,
            self.noise_level,
            self.prob_threshold,
            self.denoise_steps,
            callback,
        )
        flip = outcome.flip_probability
        return _Copy(code, torch.stack([flip.mean(1), flip.amax(1)], dim=1), outcome)

    def _decoded(self, code: Tensor) -> Tensor:
        """Images (N, C, S, S) in [0, 1] of codes."""
        with autocast(self.amp, code.device):
            return self.decode(code).float().clamp(0, 1)

    def bits(self, probability: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Codes of bit probabilities (N, K, h, w), thresholded or drawn."""
        if self.code_bits == "threshold":
            return (probability > 0.5).float()
        return (uniform_field(generators, probability.shape[1:]) < probability).float()


@dataclass(frozen=True)
class _Copy:
    """What comes of one shifted copy: its code (N, K, h, w), the flip probability's mean and maximum over bits
    (N, 2, h, w), and the denoising's outcome."""

    code: Tensor
    flip: Tensor
    outcome: MaskedDenoising


def fast_detector(
    autoencoder: nn.Module,
    network: nn.Module,
    process: BernoulliDiffusion,
    amp: str,
    compiled: bool = False,
    cuda_graphs: bool = False,
    **chosen,
) -> MaskedBernoulliDiffusion:
    """The detector of two networks, which are made fast for evaluation where they are.

    autoencoder: with `encode` and `decode`; amp: off, bf16 or fp16; cuda_graphs: the networks' passes over batches of
    the first one's size are recorded, see GraphedInference; chosen: further arguments of MaskedBernoulliDiffusion.
    """
    autoencoder = prepare_inference(autoencoder, amp)
    passes = [autoencoder.encode, autoencoder.decode, prepare_inference(network, amp, compiled)]
    if cuda_graphs:
        passes = [GraphedInference(each, amp) for each in passes]
    return MaskedBernoulliDiffusion(*passes, process, amp=amp, **chosen)


def detector(
    autoencoder: nn.Module,
    model: TrainedDiffusion,
    detection: Detection,
    device: torch.device,
    amp: str,
    compiled: bool = False,
    cuda_graphs: bool = False,
) -> MaskedBernoulliDiffusion:
    """The detector of a trained pair, whose networks are moved to the device; see fast_detector."""
    networks = autoencoder.to(device), model.network.to(device)
    # Whether contrast is matched does not matter here: images come as they were read.
    chosen = detection.completed(model, None)
    return fast_detector(*networks, model.process, amp, compiled, cuda_graphs, **chosen.arguments)
