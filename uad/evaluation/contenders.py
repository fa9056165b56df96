"""What is scored side by side on the same images: the method, its autoencoder alone, and the raw intensity."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from uad import scores
from uad.data.reading.settings import CHANNEL_NAMES, SHOWN
from uad.errors import input_error
from uad.results import Result
from uad.sides import one_sided
from uad.suited import suited_to

AUTOENCODER = "autoencoder"
# The name of its row.
AUTOENCODER_ALONE = "autoencoder alone"
SAVED = "saved"


@dataclass(frozen=True)
class Contender:
    """One way to get an anomaly map from a stored result.

    name: as shown; kind: "method", "autoencoder" or "intensity"; score: "saved" (the stored map) or a score's name;
    channel: of the intensity, None for the sum over channels; smooth: whether the intensity is smoothed; interior:
    whether that of the body's outer rim counts as 0; polarity: see uad.scores.anomaly_map; compare_sides: whether a map
    made anew is compared with the other side's, see uad.sides; image_score: what scores an image as a whole.
    """

    name: str
    kind: str
    score: str | None = None
    channel: int | None = None
    smooth: bool = False
    interior: bool = False
    polarity: tuple[int, ...] | None = None
    compare_sides: bool = False
    image_score: scores.ImageScore = scores.FOCAL

    @property
    def extras(self) -> tuple[str, ...]:
        """Extras that have to be loaded for this contender."""
        if self.kind == AUTOENCODER:
            return (AUTOENCODER,)
        return (scores.EVIDENCE_EXTRA,) if self.score == scores.EVIDENCE else ()

    def map(self, result: Result) -> np.ndarray:
        """The raw anomaly map, (H, W)."""
        if self.score == SAVED:
            return result.anomaly_map
        image = torch.from_numpy(result.image)[None]
        if self.kind == "intensity":
            inside = scores.body_interior(image) if self.interior else None
            return scores.intensity_map(image, self.channel, self.smooth, inside)[0].numpy()
        reconstruction = torch.from_numpy(self.reconstruction(result))[None]
        evidence = None
        if self.score == scores.EVIDENCE:
            evidence = torch.from_numpy(result.extras[scores.EVIDENCE_EXTRA][:1])
        found = scores.anomaly_map(image, reconstruction, self.score, evidence, self.polarity)
        if self.compare_sides:
            found = one_sided(found, image, [result.affine], [result.name])
        return found[0].numpy()

    def channel_maps(self, result: Result) -> np.ndarray:
        """The maps that the paper protocol starts from, (C, H, W): median-filtered squared differences per
        channel, whatever `score` is. An intensity has one map, itself: (1, H, W).
        """
        if self.kind == "intensity":
            return self.map(result)[None]
        image, reconstruction = torch.from_numpy(result.image), torch.from_numpy(self.reconstruction(result))
        return scores.channel_maps(image[None], reconstruction[None])[0].numpy()

    def reconstruction(self, result: Result) -> np.ndarray | None:
        """The reconstruction, (C, H, W), or None for an intensity."""
        if self.kind == "intensity":
            return None
        if self.kind == AUTOENCODER:
            return result.extras[AUTOENCODER].reshape(result.image.shape)
        return result.reconstruction


def contenders(
    run: Mapping,
    extras: tuple[str, ...],
    score: str,
    polarity: tuple[int, ...] | None = None,
    has_inputs: bool = True,
) -> tuple[Contender, ...]:
    """The rows to score for a run: the method first, then the autoencoder where it is stored, then
    intensities. Without inputs there is the method alone, by its maps; InputError for another score.

    run: contents of run.json; extras: what every image of the folder has stored; score: "saved" or a score's name;
    polarity: for scores made anew. Whether sides are compared is as in the run.
    With "saved", the autoencoder alone gets the score that run.json names; it has no evidence of its own, so that its
    "evidence" is "smooth". Four channels are BraTS' (T1, T1ce, T2, FLAIR): there the intensity is FLAIR, the last; one
    channel is itself; otherwise the sum and each channel are scored. Each stands there as it is, smoothed, and smoothed
    inside the body alone.
    """
    if score == scores.EVIDENCE and scores.EVIDENCE_EXTRA not in extras:
        raise input_error(
            f"--score {score}",
            f"no {scores.EVIDENCE_EXTRA} stored with every image",
            "results of a method that gives evidence",
            "choose another --score",
        )
    if score != SAVED and not has_inputs:
        raise input_error(
            f"--score {score}",
            "results of which only maps were kept (run.json: save)",
            "stored inputs, from which maps are made anew",
            "choose --score saved, or run the inference with --save all into another folder",
        )
    scores.check_polarity(polarity, score, run["n_channels"])
    own, known = (run.get("score"), run.get("polarity")) if score == SAVED else (score, polarity)
    # What holds for every row that is made of a residual, and for every row.
    sides, whole = run.get("compare_sides", False), {"image_score": suited_to(run.get("dataset")).image_score}
    rows = [Contender(str(run["method"]), "method", score, polarity=polarity, compare_sides=sides, **whole)]
    if not has_inputs:
        return tuple(rows)
    if AUTOENCODER in extras:
        alike = scores.residual_score(own or "")
        if alike not in scores.RESIDUAL_SCORES:
            raise input_error(
                "run.json, score",
                repr(own),
                f"one of {', '.join(scores.SCORES)}, so that the autoencoder alone is scored alike",
                "choose --score paper or --score smooth, which score every row anew",
            )
        known = known and tuple(known)
        rows.append(Contender(AUTOENCODER_ALONE, AUTOENCODER, alike, polarity=known, compare_sides=sides, **whole))
    for name, channel in _intensities(run):
        alone = Contender(name, "intensity", channel=channel, **whole)
        smoothed = replace(alone, name=f"{name}, smoothed", smooth=True)
        rows += [alone, smoothed, replace(smoothed, name=f"{name}, interior", interior=True)]
    return tuple(rows)


def _intensities(run: Mapping) -> list[tuple[str, int | None]]:
    n_channels = run["n_channels"]
    known = run.get("channel_names") or CHANNEL_NAMES.get(run.get("dataset"))
    names = list(known or (f"channel {channel}" for channel in range(n_channels)))
    if n_channels == 1:
        return [("raw intensity", 0)]
    if SHOWN in names:
        return [(f"raw intensity ({SHOWN})", names.index(SHOWN))]
    single = [(f"raw intensity ({names[channel]})", channel) for channel in range(n_channels)]
    return [("raw intensity (sum)", None), *single]
