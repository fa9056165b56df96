"""The method's numbers by groups of images: by the size of their lesions, and by what a table says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from uad.evaluation import metrics
from uad.evaluation.attributes import Attributes, range_name
from uad.evaluation.bootstrap import Estimate
from uad.evaluation.clinical import Clinical
from uad.evaluation.measure import ImageMeasure, measure_healthy_image, pixel_histograms
from uad.evaluation.statistics import quartiles
from uad.evaluation.study import Study, method_alone

SIZE = "lesion pixels of an image"
Histograms = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Group:
    """column: what is looked at; value: of this group; scored, healthy: numbers of the images that are in it."""

    column: str
    value: str
    scored: frozenset[int]
    healthy: frozenset[int]


@dataclass(frozen=True)
class GroupNumbers:
    """A group's numbers; ap, best_dice: of the pixels of its scored images; image_auroc: its diseased images
    against its healthy ones; false_positive_rate: of the pixels of its healthy images.
    """

    group: Group
    ap: Estimate
    best_dice: Estimate
    image_auroc: Estimate
    false_positive_rate: Estimate


def groups_of(clinical: Clinical, attributes: Attributes | None) -> list[Group]:
    """Groups by lesion size, quartiles of the images with a lesion, beside all healthy images; then those by column."""
    sizes = np.array([image.lesion_pixels or 0 for image in clinical.images])
    lesions, everyone = np.flatnonzero(sizes), frozenset(range(len(clinical.healthy)))
    found = []
    if len(lesions):
        members = quartiles(sizes[lesions])
        for number in np.unique(members):
            places = lesions[members == number]
            found.append(Group(SIZE, range_name(sizes[places]), frozenset(places.tolist()), everyone))
    if attributes is None:
        return found
    images = [(image.name, image.patient) for image in (*clinical.images, *clinical.healthy)]
    for column in attributes.columns:
        values = attributes.groups(column, images)
        for value in sorted(set(values), key=_order):
            places = [number for number, each in enumerate(values) if each == value]
            count = len(clinical.images)
            scored, healthy = ([n for n in places if n < count], [n - count for n in places if n >= count])
            found.append(Group(column, value, frozenset(scored), frozenset(healthy)))
    return found


def _order(value: str) -> tuple[bool, float, str]:
    """Numbers, and ranges by where they begin, in their order; then words in theirs."""
    try:
        return False, float(value.split(" to ")[0]), value
    except ValueError:
        return True, 0.0, value


def breakdown(
    study: Study,
    healthy: Study | None,
    clinical: Clinical,
    groups: Sequence[Group],
    threshold: float | None,
    mapper: Callable = map,
) -> list[GroupNumbers]:
    """The numbers of each group; threshold: the score at which pixels of healthy images are called, None without."""
    name = study.rows[0].name
    scale = clinical.rows[name].scale
    pooled = {kind: np.zeros((len(groups), metrics.N_BINS)) for kind in ("positives", "negatives", "healthy")}

    def pool(histograms: Histograms, members: Sequence[int]) -> None:
        for kind, (bins, counts) in histograms.items():
            for number in members:
                pooled[kind][number, bins] += counts

    for place, found in enumerate(method_alone(study).each(partial(_scored, scale=scale), mapper)):
        pool(found, [number for number, group in enumerate(groups) if place in group.scored])
    if healthy is not None:
        measure = partial(measure_healthy_image, scales={name: scale})
        for place, image in enumerate(method_alone(healthy).each(measure, mapper)):
            members = [number for number, group in enumerate(groups) if place in group.healthy]
            pool(image.rows[name].histograms, members)
    values = metrics.bin_values(np.arange(metrics.N_BINS), scale)
    depth = None if threshold is None else metrics.N_BINS - int(np.searchsorted(values, threshold))
    return [
        _numbers(clinical, name, group, {kind: found[number] for kind, found in pooled.items()}, depth)
        for number, group in enumerate(groups)
    ]


def _scored(study: Study, name: str, scale: float) -> Histograms:
    """What a group needs of a scored image, whose other numbers are known; nothing without a mask."""
    result = study.load(name)
    if result.label is None:
        return {}
    (found,) = study.maps(result).values()
    return pixel_histograms(metrics.float16_bins(found, scale), result.label > 0)


def _numbers(
    clinical: Clinical, name: str, group: Group, pooled: Mapping[str, np.ndarray], depth: int | None
) -> GroupNumbers:
    positives, negatives, healthy = (metrics.tally(pooled[kind]) for kind in ("positives", "negatives", "healthy"))
    scored = [clinical.images[place] for place in sorted(group.scored)]
    unaffected = [clinical.healthy[place] for place in sorted(group.healthy)]
    if depth is None:
        rate = Estimate(None, reason="no threshold from healthy images")
    else:
        rate = _estimate(metrics.share_at(healthy, np.array(depth)), "no healthy images")
    return GroupNumbers(
        group,
        _estimate(metrics.average_precision(positives, negatives), "no lesion"),
        _estimate(metrics.best_dice(positives, negatives), "no lesion"),
        _image_auroc(scored, unaffected, name),
        rate,
    )


def _estimate(value: np.ndarray, reason: str) -> Estimate:
    return Estimate(float(value)) if np.isfinite(value) else Estimate(None, reason=reason)


def _image_auroc(scored: Sequence[ImageMeasure], healthy: Sequence[ImageMeasure], name: str) -> Estimate:
    known = [image for image in (*scored, *healthy) if image.diseased is not None]
    labels = [image.diseased for image in known]
    if all(labels) or not any(labels):
        return Estimate(None, reason="no healthy images" if any(labels) else "no diseased images")
    # Here: it takes two seconds to import, and without a breakdown it is not needed.
    from sklearn.metrics import roc_auc_score

    return Estimate(float(roc_auc_score(labels, [image.rows[name].image_score for image in known])))
