"""What is said of one input: map, healthy counterpart, mask and score, on the grid that the input has."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy import ndimage

from uad.application.calibration import Calibration
from uad.application.judging import Judged
from uad.application.opening import Opened


@dataclass(frozen=True)
class Answer:
    """Of a slice, or of a volume on the axes of its file; of several images each field has an axis of N in front.

    anomaly_map: (H, W) or (X, Y, Z) float32, not negative, one scale for all inputs; reconstruction: (C, H, W) or
    (X, Y, Z, C) float32 in [0, 1], normalised as the model sees images; score: how anomalous the input is, that of a
    volume's highest slice; mask: bool, where the map reaches `threshold`; percentile: the share of healthy patients, in
    per cent, with a lower score; healthy_patients: how many these are; slice_of_maximum: of the map, counted from the
    feet up; notices: what was done to the input and in what it is unlike the training images. mask, threshold,
    percentile and healthy_patients are None where the model has no calibration.
    """

    anomaly_map: np.ndarray
    reconstruction: np.ndarray
    score: float | np.ndarray
    mask: np.ndarray | None
    threshold: float | None
    percentile: float | np.ndarray | None
    healthy_patients: int | None
    slice_of_maximum: int | np.ndarray
    notices: tuple[str, ...]


def answer_of(
    opened: Opened,
    judged: Judged,
    calibration: Calibration | None,
    rate: float,
    median: int,
    notices: Sequence[str],
) -> Answer:
    """What is said of an input that was judged.

    rate: share of healthy pixels that the mask may mark, one of uad.application.calibration.RATES; median: side of a
    median filter over voxels in three dimensions (of a slice in two), 0 for none; notices: added to those of opening.
    """
    volume = opened.volume(judged.maps)
    if median:
        volume = ndimage.median_filter(volume, size=[median if length > 1 else 1 for length in volume.shape])
    stored, reconstruction = opened.to_file(volume), opened.to_file(opened.volume(judged.reconstructions))
    if opened.voxel_ml is None:
        stored, reconstruction = stored[..., 0], np.moveaxis(reconstruction[:, :, 0], -1, 0)
    threshold = calibration.threshold(rate) if calibration else None
    score = max(judged.scores)
    return Answer(
        anomaly_map=stored,
        reconstruction=reconstruction,
        score=score,
        mask=None if threshold is None else stored >= np.float32(threshold),
        threshold=threshold,
        percentile=calibration.percentile(score) if calibration else None,
        healthy_patients=len(calibration.scores) if calibration else None,
        slice_of_maximum=int(np.unravel_index(int(volume.argmax()), volume.shape)[2]),
        notices=(*opened.notices, *notices),
    )


def together(answers: Sequence[Answer], names: Sequence[str]) -> Answer:
    """Those of images of one size and one model as one: arrays with an axis of N in front; a notice of some of the
    images only begins with the name of its image.
    """
    values = {field.name: [getattr(answer, field.name) for answer in answers] for field in fields(Answer)}
    shared = set.intersection(*map(set, values.pop("notices")))
    notices = dict.fromkeys(
        notice if notice in shared else f"{name}: {notice}"
        for name, answer in zip(names, answers, strict=True)
        for notice in answer.notices
    )
    stacked = {name: None if each[0] is None else np.stack(each) for name, each in values.items()}
    common = {"threshold": answers[0].threshold, "healthy_patients": answers[0].healthy_patients}
    return Answer(**stacked | common | {"notices": tuple(notices)})
