"""Judging a training of stage 2 while it goes on: detection on held-out images, the best checkpoint, the curve."""

import time
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bernoulli_diffusion.architecture import Model
from bernoulli_diffusion.codes import KeptCodes
from bernoulli_diffusion.held_out import HeldOut
from bernoulli_diffusion.method import ENOUGH_STEPS, Detection, detector
from bernoulli_diffusion.model import KIND, TrainedDiffusion
from uad.application.judging import Judge
from uad.best import AP, BEST_STEP, BestCheckpoint
from uad.checkpoints import described
from uad.configuration import BEFORE
from uad.errors import input_error
from uad.evaluation.figures import save
from uad.evaluation.progress import CURVES, progress_figure, separation
from uad.suited import suited_to
from uad.training_log import LOG, logged
from uad.weights import averaged_weights

CURVE = "validation.png"
BATCH = 16
# Of the noise in detection: what its command has by default.
SEED = 0


def validating_detection(preset: str) -> Detection:
    """How a training with this preset is judged: as detection with the preset's defaults, in ENOUGH_STEPS at most."""
    chosen = Detection.preset(preset)
    return replace(chosen, denoise_steps=min(chosen.denoise_steps, ENOUGH_STEPS))


@dataclass(frozen=True)
class Judging:
    """How weights are judged, and what their checkpoint says.

    autoencoder: in evaluation mode, with `encode` and `decode`; shape, config: of the model; command: that trains it;
    detection: how scans are judged; amp: off, bf16 or fp16.
    """

    autoencoder: nn.Module
    shape: Model
    config: dict
    command: str | None
    detection: Detection
    device: torch.device
    amp: str

    def method(self, step: int, ema: nn.Module):
        """The detector of a copy of the weights: what makes a network fast would change those of the training."""
        process = self.shape.process.build()
        model = TrainedDiffusion(deepcopy(ema), process, self.shape, Path(), step, self.config, "", self.command)
        return detector(self.autoencoder, model, self.detection, self.device, self.amp)


def _told(detection: Detection) -> dict:
    # As earlier versions, whose trainings go on, told it.
    return {name: value for name, value in asdict(detection).items() if name not in BEFORE or value != BEFORE[name]}


class Validation:
    """Judges averaged weights, keeps the best of them in the folder of the run and draws the curve there.

    folder: that of the images; new: the run has no checkpoint yet. Raises InputError where the best so far was judged
    on something else, see BestCheckpoint.
    """

    def __init__(self, judging: Judging, images: HeldOut, folder: str, log_dir: Path, new: bool):
        self.judging, self.images, self.log_dir = judging, images, log_dir
        lesions = "by its own labels" if images.lesions is None else f"by synthetic lesions ({images.lesions})"
        healthy = len(images.names) - images.diseased
        self.words = f"{images.diseased} diseased and {healthy} healthy images of {folder}, {lesions}"
        self.judged_on = {
            "words": self.words,
            "folder": folder,
            "images": len(images.names),
            "diseased": images.diseased,
            "real_labels": images.lesions is None,
            "hash": images.digest(repr((_told(judging.detection), judging.amp))),
        }
        self.best = BestCheckpoint(log_dir, self.judged_on, new)
        self._codes: KeptCodes | None = None
        self._spent, self._begun = 0.0, time.perf_counter()

    def __call__(self, step: int, ema: nn.Module) -> dict[str, float]:
        """What to log of the weights after a step: AP and image AUROC where they are defined, step and AP of the best
        so far, and the share of the time since the start that went into judging.

        InputError for weights that are not finite.
        """
        start = time.perf_counter()
        numbers = self._numbers(step, ema)
        points = logged(self.log_dir / LOG, CURVES)
        best = self.best.consider(step, numbers, points[AP], lambda: self._checkpoint(step, ema))
        for name, value in numbers.items():
            points[name].append((step, value))
        save(progress_figure(points, best.get(BEST_STEP), self.words), self.log_dir / CURVE)
        now = time.perf_counter()
        self._spent += now - start
        return numbers | best | {"val_time_share": self._spent / (now - self._begun)}

    def _numbers(self, step: int, ema: nn.Module) -> dict[str, float]:
        if not all(torch.isfinite(value).all() for value in ema.state_dict().values()):
            remedy = "lower --lr, or use --amp bf16 or off; a rerun continues from the last checkpoint"
            raise input_error(f"step {step}", "NaN or infinity in the averaged weights", "finite weights", remedy)
        method, images = self.judging.method(step, ema), self.images
        # Of images that are judged again and again, the codes are made in the first round.
        self._codes = self._codes or KeptCodes(method.encode, method.code_bits)
        self._codes.begin()
        method.encode = self._codes
        judge = Judge(method, self.judging.device, BATCH, SEED, self.judging.detection.compare_sides)
        image_score = suited_to(self.judging.config["data"]["dataset"]).image_score
        return separation(judge(images.images, images.names, images.affines).maps, images.masks, image_score)

    def _checkpoint(self, step: int, ema: nn.Module) -> dict:
        """The weights for inference, with what they were chosen by."""
        config = self.judging.config | {"chosen": self.judged_on}
        return described(KIND, step, config, self.judging.command) | averaged_weights(ema.state_dict())
