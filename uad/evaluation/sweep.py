"""What a sweep over settings of detection found: a record for each, and the one that is chosen, with the reason."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uad.errors import input_error
from uad.evaluation.bootstrap import Estimate
from uad.evaluation.clinical import Row, difference
from uad.evaluation.held_maps import HeldImages
from uad.evaluation.tables import HEADLINE, Table, signed
from uad.files import read_json, write_json
from uad.results import DISEASED_KEY, check_same_run

METRICS = {
    "auroc": HEADLINE["auroc"],
    "ap": HEADLINE["ap"],
    "ap_with_healthy": "AP, healthy images too",
    "best_dice": HEADLINE["best_dice"],
    "image_auroc": HEADLINE["image_auroc"],
}
# How the fields of a setting are written.
SYMBOLS = {
    "noise_level": "L",
    "prob_threshold": "P",
    "denoise_steps": "K",
    "shifts": "shifts",
    "score": "score",
    "members": "models",
}


class Setting(NamedTuple):
    """What differs between the settings of a sweep: L, P and K of the masked denoising, shifts and score, and how many
    models are averaged, the first ones of those that are named.
    """

    noise_level: int
    prob_threshold: float
    denoise_steps: int
    shifts: int
    score: str
    members: int = 1

    def __str__(self) -> str:
        told = self._asdict()
        if self.members == 1:
            del told["members"]
        return ", ".join(f"{SYMBOLS[name]} = {value}" for name, value in told.items())

    def path(self, folder: Path) -> Path:
        """Where the record of the setting lies in the folder of a sweep."""
        level, threshold, steps, shifts, score, members = self
        models = f"_models{members}" if members > 1 else ""
        return folder / "records" / f"L{level}_P{threshold!r}_K{steps}_shifts{shifts}_{score}{models}.json"


def check_begun(out: Path, run: Path, facts: Mapping) -> None:
    """InputError where what is written would lie among the images, where both folders hold the same images, and where
    records in the folder are of other settings or do not say of which.

    run: the file in `out` that says of what its records are; facts: what it would say now.
    """
    remedy = "choose another --out_dir"
    for folder in (facts["data_dir"], facts["healthy_dir"]):
        if folder is not None and out.resolve() == Path(folder).resolve():
            raise input_error(f"--out_dir {out}", "the folder of the images", "a folder of its own", remedy)
    if facts["healthy_hash"] == facts["data_hash"]:
        found = f"the images of {facts['data_dir']}"
        raise input_error(f"--healthy_dir {facts['healthy_dir']}", found, "other images", "name another folder")
    if run.is_file():
        begun = read_json(run)
        if common := [name for name in Setting._fields if name in begun]:
            found = f"{' and '.join(common)} for all records, as an earlier version wrote"
            raise input_error(run, found, "records of which each states its own", remedy)
        check_same_run(run, begun, dict(facts))
    elif any(out.glob("records/*.json")):
        raise input_error(out, f"records without {run.name}, which says of what they are", "both or neither", remedy)


@dataclass(frozen=True)
class Outcome:
    """A setting's numbers.

    estimates: metric -> Estimate; samples: metric -> (n_resamples,), the same resamples of patients for every setting;
    seconds: what detection and evaluation took, the former with all settings of its L and its models together, over
    their number.
    """

    setting: Setting
    estimates: dict[str, Estimate]
    samples: dict[str, np.ndarray]
    seconds: dict[str, float]


def outcome_of(setting: Setting, row: Row, seconds: Mapping[str, float]) -> Outcome:
    """The outcome of a setting whose maps the clinical protocol scored."""
    estimates, samples = ({name: found[name] for name in METRICS} for found in (row.estimates, row.samples))
    return Outcome(setting, estimates, samples, dict(seconds))


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Write the record of a setting, whole."""
    content = {
        "setting": outcome.setting._asdict(),
        "seconds": outcome.seconds,
        "metrics": {name: asdict(found) for name, found in outcome.estimates.items()},
        "samples": {
            name: [float(value) if np.isfinite(value) else None for value in samples]
            for name, samples in outcome.samples.items()
        },
    }
    write_json(outcome.setting.path(folder), content)


def read_outcomes(folder: Path) -> dict[Setting, Outcome]:
    """All records in the folder of a sweep, those of former commands too; InputError for a damaged one."""
    found = [_read_outcome(path) for path in sorted(folder.glob("records/[!.]*.json"))]
    return {outcome.setting: outcome for outcome in found}


def _read_outcome(path: Path) -> Outcome:
    content = read_json(path)
    try:
        setting = Setting(**content["setting"])
        if setting.path(path.parents[1]) != path:
            raise ValueError(f"of {content['setting']}")
        estimates = {name: Estimate(**content["metrics"][name]) for name in METRICS}
        samples = {name: np.array(content["samples"][name], dtype=np.float64) for name in METRICS}
        seconds = {name: float(content["seconds"][name]) for name in ("detection", "evaluation")}
    except (KeyError, TypeError, ValueError) as error:
        found = f"no whole record ({type(error).__name__}: {error})"
        remedy = "delete it and run the same command again: it fills the gap"
        raise input_error(path, found, "the record of a setting", remedy) from error
    return Outcome(setting, estimates, samples, seconds)


@dataclass(frozen=True)
class Choice:
    """Which setting a sweep chooses.

    metric: by which; chosen: the setting; best: the one with the highest value; default: the one that holds without a
    sweep; lead: best minus default, paired; following: the highest of all others than the chosen one, None where there
    is no other; ahead: chosen minus following, None likewise.
    """

    metric: str
    chosen: Outcome
    best: Outcome
    default: Outcome
    lead: Estimate
    following: Outcome | None
    ahead: Estimate | None

    def text(self) -> str:
        """The choice in words, with what speaks for it."""
        label = METRICS[self.metric]
        value = self.chosen.estimates[self.metric]
        lines = [f"Chosen by {label}: {self.chosen.setting}, {value}."]
        if self.best is self.default:
            lines.append("It is the default, and no other setting is higher.")
        elif self.chosen is self.default:
            lines.append(
                f"It is the default. {self.best.setting} is higher by {signed(self.lead)}, {_unsure(self.lead)}: the "
                "default is preferred then."
            )
        else:
            lines.append(
                f"It is ahead of the default ({self.default.setting}) by {signed(self.lead)}, an interval without 0."
            )
        if self.following and self.following is not self.default and self.following is not self.best:
            lines.append(f"The next one is {self.following.setting}; the difference to it is {signed(self.ahead)}.")
        elif self.following and self.following is self.default:
            lines.append("The default is the next one.")
        return " ".join(lines)

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        found = {
            "metric": self.metric,
            "chosen": self.chosen.setting._asdict(),
            "value": asdict(self.chosen.estimates[self.metric]),
            "best": self.best.setting._asdict(),
            "default": self.default.setting._asdict(),
            "best_minus_default": asdict(self.lead),
            "text": self.text(),
        }
        if self.following:
            found |= {"next": self.following.setting._asdict(), "chosen_minus_next": asdict(self.ahead)}
        return found


def _unsure(found: Estimate) -> str:
    return "an interval that includes 0" if found.low is not None else f"without an interval ({found.interval_reason})"


def choose(outcomes: Sequence[Outcome], default: Outcome, metric: str) -> Choice:
    """The setting with the highest metric or, where the interval of its lead over the default includes 0 or there is no
    interval, the default: on few patients the highest of many is highest by chance.

    outcomes: all settings, the default among them; the metric is defined for each. Of equal ones the default counts
    first, then the order.
    """

    def value(outcome: Outcome) -> float:
        return outcome.estimates[metric].value

    ordered = sorted(outcomes, key=lambda outcome: (-value(outcome), outcome is not default))
    best = ordered[0]
    lead = difference(best, default, metric)
    chosen = best if lead.low is not None and lead.low > 0 else default
    following = next((outcome for outcome in ordered if outcome is not chosen), None)
    ahead = difference(chosen, following, metric) if following else None
    return Choice(metric, chosen, best, default, lead, following, ahead)


def sweep_table(outcomes: Sequence[Outcome], choice: Choice) -> Table:
    """One row a setting: the metrics with their intervals, and the paired difference to the default."""
    cells = [
        [
            f"{outcome.setting}{_marks(outcome, choice)}",
            *(str(outcome.estimates[name]) for name in METRICS),
            "" if outcome is choice.default else signed(difference(outcome, choice.default, choice.metric)),
        ]
        for outcome in outcomes
    ]
    note = (
        "Clinical protocol: raw maps on one scale, pixels pooled over the images with masks. [95 % percentile "
        "bootstrap over patients]; differences are paired. Best Dice chooses its threshold on these labels."
    )
    header = ["", *METRICS.values(), f"{METRICS[choice.metric]}, minus the default's"]
    return Table("Settings", header, cells, note)


def _marks(outcome: Outcome, choice: Choice) -> str:
    marks = [word for word in ("chosen", "default") if outcome is getattr(choice, word)]
    return f" ({', '.join(marks)})" if marks else ""


def sweep_rows(outcomes: Sequence[Outcome], choice: Choice) -> list[dict]:
    """The table as plain numbers for CSV: value, low and high of each metric, and of the paired difference to the
    default in the metric that chose; what is undefined is left out."""
    rows = []
    for outcome in outcomes:
        estimates = outcome.estimates | {
            f"{choice.metric}_minus_default": difference(outcome, choice.default, choice.metric)
        }
        row = outcome.setting._asdict()
        for name, found in estimates.items():
            numbers = {"": found.value, "_low": found.low, "_high": found.high}
            row |= {f"{name}{end}": "" if number is None else number for end, number in numbers.items()}
        row |= {f"seconds_{part}": round(number, 2) for part, number in outcome.seconds.items()}
        rows.append(row | {word: int(outcome is getattr(choice, word)) for word in ("chosen", "default")})
    return rows


def check_choosable(metric: str, held: Sequence[HeldImages]) -> None:
    """InputError where the metric is not defined on the images; held: the scored ones, then healthy ones, if any."""
    scored_images, healthy = held[0], held[1:]
    pairs = zip(scored_images.labels, scored_images.records, strict=True)
    without = any(not record.get(DISEASED_KEY, label is None or label.any()) for label, record in pairs)
    where = f"--choose_by {metric}"
    if metric != "image_auroc" and not scored_images.with_lesion:
        masks = sum(label is not None for label in scored_images.labels)
        raise input_error(
            where,
            f"{masks} masks in {scored_images.folder}, none of which has a lesion",
            f"masks in {scored_images.folder}_labels, see data/README.md",
            "add the masks or, with --healthy_dir, pass --choose_by image_auroc, which needs none",
        )
    if not healthy and (metric == "ap_with_healthy" or (metric == "image_auroc" and not without)):
        raise input_error(where, "no healthy images", "a folder of healthy images", "pass --healthy_dir")


def check_defined(metric: str, outcomes: Iterable[Outcome]) -> None:
    """InputError where the metric has no value for a setting: records of a former command with another metric."""
    for outcome in outcomes:
        if outcome.estimates[metric].value is None:
            found = f"{outcome.estimates[metric].reason} ({outcome.setting})"
            raise input_error(f"--choose_by {metric}", found, "a metric that is defined", "choose another one")
