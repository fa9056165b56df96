"""Flags for trust in a threshold, and what comes of them beside the clinical protocol."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field

from uad.cli.evaluation import Scoring
from uad.cli.flags import Flags, add
from uad.errors import InputError, Problem
from uad.evaluation.attributes import Attributes
from uad.evaluation.breakdown import GroupNumbers, breakdown, groups_of
from uad.evaluation.calibration import Calibration, Realised, calibrate, realised
from uad.evaluation.clinical import Clinical
from uad.evaluation.statistics import HEADLINE_RATE
from uad.evaluation.study import Study
from uad.evaluation.tables import Table
from uad.evaluation.trust_tables import breakdown_table, calibration_table


def add_trust_flags(parser: Flags) -> None:
    """Calibration and groups of images, of the clinical protocol."""
    add(
        parser,
        "--calibration",
        help="result folder (with --maps, folder of maps) of healthy images of patients used in neither training nor "
        "testing: gives p-values of images, thresholds of pixels, and the rates these realise on --healthy",
        shown="none",
    )
    add(
        parser,
        "--meta",
        help="CSV or TSV with a header: name (of a slice or a scan) or patient, and columns such as scanner or age. "
        "The method's numbers are given for each value",
        shown="none",
    )


def check_trust_flags(args: Namespace, protocols: tuple[str, ...]) -> None:
    """InputError where the flags go with none of these protocols, or with several folders of maps."""
    problems = [
        Problem(flag, f"{found}, with --protocol {args.protocol}", " or ".join(protocols), f"leave {flag} out")
        for flag, found in (("--calibration", args.calibration), ("--meta", args.meta))
        if found and args.protocol not in protocols
    ]
    if args.calibration and len(args.maps or []) > 1:
        expected = "one: maps of different software are on different scales"
        problems.append(Problem("--calibration", f"{len(args.maps)} folders of --maps", expected, "score them apart"))
    if problems:
        raise InputError(problems)


@dataclass(frozen=True)
class Trust:
    """calibrations: by row, empty without --calibration; realised: on healthy images, None without; groups: the method
    by groups of images; leading, further: their tables, for the terminal and for the report only.
    """

    calibrations: dict[str, Calibration] = field(default_factory=dict)
    realised: dict[str, Realised] | None = None
    groups: list[GroupNumbers] = field(default_factory=list)
    leading: list[Table] = field(default_factory=list)
    further: list[Table] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        calibration = {
            row: {
                "images": len(each.scores),
                "thresholds": {f"fpr{rate:.0%}": threshold for rate, threshold in each.thresholds.items()},
                **(_shares(self.realised[row]) if self.realised else {}),
            }
            for row, each in self.calibrations.items()
        }
        names = ("ap", "best_dice", "image_auroc", "false_positive_rate")
        groups = [
            {
                "column": each.group.column,
                "value": each.group.value,
                "scored_images": len(each.group.scored),
                "healthy_images": len(each.group.healthy),
                **{name: getattr(each, name).as_dict() for name in names},
            }
            for each in self.groups
        ]
        return {"calibrations": calibration, "groups": groups}


def _shares(found: Realised) -> dict[str, dict]:
    return {
        f"realised_{kind}": {f"fpr{rate:.0%}": estimate.as_dict() for rate, estimate in shares.items()}
        for kind, shares in (("pixels", found.pixels), ("images", found.images))
    }


def trust_in(
    study: Study,
    healthy: Study | None,
    calibration: Study | None,
    clinical: Clinical,
    attributes: Attributes | None,
    scoring: Scoring,
    mapper: Callable,
) -> Trust:
    """What calibration and groups say of a folder that was scored; scoring: its resamples and their seed."""
    name, leading = study.rows[0].name, []
    calibrations = calibrate(calibration, mapper) if calibration else {}
    found = None
    if calibration and healthy:
        found = realised(healthy, calibrations, scoring.bootstrap, scoring.seed, mapper)
    if calibrations:
        image_scores = {row: each.image_score for row, each in clinical.rows.items()}
        leading = [calibration_table(calibrations, found, image_scores)]
        threshold, source = calibrations[name].thresholds[HEADLINE_RATE], "of the calibration images"
    else:
        threshold = clinical.rows[name].thresholds.get(f"fpr{HEADLINE_RATE:.0%}")
        source = "of the healthy images themselves" if healthy else "none"
    chosen = groups_of(clinical, attributes)
    groups = breakdown(study, healthy, clinical, chosen, threshold, mapper) if chosen else []
    table = [breakdown_table(name, groups, source, clinical.rows[name].image_score)] if groups else []
    return Trust(calibrations, found, groups, leading + table * (attributes is not None), table * (attributes is None))
