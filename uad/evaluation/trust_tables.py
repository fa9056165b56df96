"""Tables of what thresholds hold, and of the method by groups of images."""

from collections.abc import Mapping, Sequence

from uad.evaluation.attributes import MOST_VALUES
from uad.evaluation.breakdown import GroupNumbers
from uad.evaluation.calibration import Calibration, Realised
from uad.evaluation.statistics import HEADLINE_RATE, NO_HEALTHY, RATES
from uad.evaluation.study import MASKS
from uad.evaluation.tables import Table, image_score_note


def calibration_table(
    calibrations: Mapping[str, Calibration], found: Mapping[str, Realised] | None, image_scores: Mapping[str, str]
) -> Table:
    """One row a contender and nominal rate; found: on healthy test images, None without; image_scores: what scores an
    image, of each contender, in words.
    """
    missing = f"n/a ({NO_HEALTHY})"
    cells = []
    for name, calibration in calibrations.items():
        for rate in RATES:
            here = found[name] if found else None
            shares = [str(each[rate]) for each in (here.pixels, here.images)] if here else [missing] * 2
            cells.append([name, f"{rate:.0%}", f"{calibration.thresholds[rate]:.4g}", *shares])
    count = len(next(iter(calibrations.values())).scores)
    note = (
        f"{count} calibration images, of patients who are not among the test images. Thresholds: the lowest score that "
        "at most the nominal share of their pixels reaches; they saw no test image and no label. Realised: on the "
        "images of --healthy, [95 % percentile bootstrap over their patients; that other patients for calibration "
        "would give other thresholds is not in it]. An image is called where its conformal p-value, (1 + number of "
        "calibration scores that are not lower) / (n + 1), is at most the nominal rate; "
        f"{1 / (count + 1):.3f} is the lowest one possible. Slices of one patient are alike: with few "
        f"patients, realised rates can lie far from nominal ones. {image_score_note(image_scores)}"
    )
    header = ["", "nominal FPR", "pixel threshold", "realised FPR, pixels", "realised FPR, images"]
    return Table("Calibration, healthy images", header, cells, note)


def breakdown_table(name: str, found: Sequence[GroupNumbers], source: str, image_score: str) -> Table:
    """One row a group; name: of the method; source: of the threshold, image_score: what scores an image, in words."""
    cells = [
        [
            f"{each.group.column}: {each.group.value}",
            f"{len(each.group.scored)} + {len(each.group.healthy)}",
            *map(str, (each.ap, each.best_dice, each.image_auroc, each.false_positive_rate)),
        ]
        for each in found
    ]
    header = ["", "images (scored + healthy)", "AP", "best Dice (upper bound)", "image AUROC"]
    header.append(f"FPR on healthy at nominal {HEADLINE_RATE:.0%}")
    note = (
        "AP and best Dice: pixels of the scored images of a group. Groups of lesion size, quartiles of the images with "
        f"a lesion, stand beside all healthy images. Columns with more than {MOST_VALUES} numbers are shown by "
        "quartile. AP depends on the share of lesion pixels: compare methods in a group, not groups. Threshold: "
        f"{source}; best Dice chooses its own on the labels of a group. Masks: {MASKS}. Image score: {image_score}."
    )
    return Table(f"By groups of images, {name}", header, cells, note)
