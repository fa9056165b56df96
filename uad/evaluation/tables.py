"""Tables of an evaluation, as Markdown; an undefined number appears with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.statistics import HEADLINE_RATE, NO_HEALTHY, RATES, WITH_HEALTHY, names_at
from uad.evaluation.study import MASKS

HEADLINE = {
    "auroc": "pixel AUROC",
    "ap": "AP",
    "best_dice": "best Dice (upper bound)",
    names_at(HEADLINE_RATE)[0]: f"Dice at {HEADLINE_RATE:.0%} FPR",
    "aupro": "AUPRO",
    "image_auroc": "image AUROC",
}

# What rounding leaves of a difference that is none.
NOTHING = 1e-9
REPORTED = (*HEADLINE, *WITH_HEALTHY.values())


@dataclass(frozen=True)
class Table:
    """A table of text; the first column names the row."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """The table with its title and note as GitHub Markdown, columns aligned."""
        lines = [self.header, *self.rows]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(self.header))]
        text = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
        text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([f"### {self.title}", "", *text, *(["", self.note] if self.note else [])]) + "\n"


@dataclass(frozen=True)
class Scope:
    """Which images the pixels of a table are of.

    images: in words; columns: metric -> label; prevalence: of lesion pixels in these images, in words.
    """

    images: str
    columns: Mapping[str, str]
    prevalence: str


def scopes(clinical: Clinical) -> list[Scope]:
    """The scored images and, where healthy images were given, these and the healthy ones together."""
    found = [Scope(of_scored(clinical), HEADLINE, _share(clinical.prevalence))]
    if clinical.healthy:
        numbers = f"{_masked(clinical)} + {clinical.counts['healthy_images']}"
        columns = {name: HEADLINE[metric] for metric, name in WITH_HEALTHY.items()}
        share = _share(clinical.prevalence_with_healthy)
        found.append(Scope(f"with the healthy images ({numbers})", columns, share))
    return found


def _share(prevalence: float | None) -> str:
    return "n/a (no masks)" if prevalence is None else f"{prevalence:.4f}"


def of_scored(clinical: Clinical) -> str:
    """The scored images in words, with the number of those that have a mask."""
    lacking = f" with a mask of {clinical.counts['images']}" if clinical.counts["images_without_mask"] else ""
    return f"scored images ({_masked(clinical)}{lacking})"


def _masked(clinical: Clinical) -> int:
    return clinical.counts["images"] - clinical.counts["images_without_mask"]


def detection_tables(clinical: Clinical) -> list[Table]:
    """What is found, and the differences to the competitors, if there are any, of each scope."""
    found = scopes(clinical)
    headlines = [headline_table(clinical.rows, scope) for scope in found]
    return headlines + [difference_table(clinical.rows, scope) for scope in found if len(clinical.rows) > 1]


def further_tables(clinical: Clinical) -> list[Table]:
    """Thresholds, lesions and, where there are any, reconstructions of the clinical protocol."""
    images = of_scored(clinical)
    tables = [_threshold_table(clinical.rows, images), _lesion_table(clinical.rows, images)]
    return tables + [_closeness_table(clinical.rows)] * any(row.closeness for row in clinical.rows.values())


def headline_table(rows: Mapping[str, Row], scope: Scope, title: str = "Detection") -> Table:
    """One row a contender, the metrics of the scope with their 95 % intervals."""
    labels = [
        f"AP (prevalence {scope.prevalence})" if label == HEADLINE["ap"] else label for label in scope.columns.values()
    ]
    cells = [[name, *(str(row.estimates[metric]) for metric in scope.columns)] for name, row in rows.items()]
    note = (
        "Clinical protocol: raw maps on one scale, pixels pooled over the images with masks. [95 % percentile "
        f"bootstrap over patients]. Masks: {MASKS}. Best Dice chooses its threshold on the test labels."
    )
    if "image_auroc" in scope.columns:
        note += (
            " FPR: share of all pixels of the healthy images. Image AUROC: diseased images, by their release or else "
            "by their mask, against all others, the healthy ones too. "
            f"{image_score_note({name: row.image_score for name, row in rows.items()})}"
        )
    return Table(f"{title}, {scope.images}", ["", *labels], cells, note)


def image_score_note(definitions: Mapping[str, str]) -> str:
    """What scores an image as a whole, for a table's note, one sentence; definitions: of each row, by its name."""
    kinds = list(dict.fromkeys(definitions.values()))
    if len(kinds) == 1:
        return f"Image score: {kinds[0]}."
    known = [name for name, definition in definitions.items() if definition != kinds[-1]]
    return f"Image score: {kinds[0]} ({', '.join(known)}); {kinds[-1]} (the others)."


def difference_table(rows: Mapping[str, Row], scope: Scope) -> Table:
    """The first row minus each other one, paired, in the metrics of the scope."""
    (first, method), *others = rows.items()
    cells = [
        [f"{first} - {name}", *(signed(difference(method, row, metric)) for metric in scope.columns)]
        for name, row in others
    ]
    note = "Paired: both are evaluated on the same resamples of the same patients."
    return Table(f"Difference to the competitors, {scope.images}", ["", *scope.columns.values()], cells, note)


def signed(found: Estimate) -> str:
    """An estimate of a difference: as text, with the sign of every number and of 0 alone none."""
    if found.value is None:
        return str(found)
    if found.low is None:
        return _signed(found.value)
    return f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"


def _signed(number: float) -> str:
    """Three decimals; where these are 0 and the number is not, its first digit, which tells the side of 0."""
    if abs(number) < NOTHING:
        return "0.000"
    return f"{number:+.3f}" if round(abs(number), 3) else f"{number:+.1g}"


def _threshold_table(rows: Mapping[str, Row], images: str) -> Table:
    cells = []
    for name, row in rows.items():
        for rate in RATES:
            threshold = row.thresholds.get(f"fpr{rate:.0%}")
            shown = f"n/a ({NO_HEALTHY})" if threshold is None else f"{threshold:.4g}"
            cells.append([name, f"{rate:.0%}", shown, *(str(row.estimates[m]) for m in names_at(rate))])
    header = [
        "",
        "target FPR",
        "threshold",
        "Dice",
        "sensitivity",
        "FPR on scored images",
        "FPR on healthy images",
    ]
    note = (
        "Thresholds: the lowest score that at most the target share of the pixels of the healthy images reaches; no "
        "label chose them. On these images the rate is the target by construction: for others' see --calibration. "
        f"Masks: {MASKS}."
    )
    return Table(f"At thresholds from healthy images, {images}", header, cells, note)


def _lesion_table(rows: Mapping[str, Row], images: str) -> Table:
    cells = []
    for name, row in rows.items():
        found = row.lesion_sensitivity
        if found["sensitivity"] is None:
            cells.append([name, *[f"n/a ({found['reason']})"] * 5, str(row.estimates["patient_dice"])])
            continue
        quartiles = [_quartile(part) for part in found["quartiles"]]
        whole = f"{found['sensitivity']:.3f} (n={found['lesions']})"
        cells.append([name, whole, *quartiles, str(row.estimates["patient_dice"])])
    header = ["", "all lesions", *(f"size quartile {i}" for i in range(1, 5)), "Dice per patient (mean)"]
    note = (
        "At the 1 % threshold, which is from healthy images. A lesion is an 8-connected region of a slice; it is found "
        "if at least half of its pixels are. Patients without lesion have no Dice and are left out of its mean. "
        f"Masks: {MASKS}."
    )
    return Table(f"Lesions and patients, {images}", header, cells, note)


def _quartile(part: Mapping) -> str:
    if part["sensitivity"] is None:
        return f"n/a ({part['reason']})"
    return f"{part['sensitivity']:.3f} (n={part['lesions']}, {part['smallest']}-{part['largest']} px)"


def _closeness_table(rows: Mapping[str, Row]) -> Table:
    rows = {name: row for name, row in rows.items() if row.closeness}
    columns = sorted({name for row in rows.values() for name in row.closeness})
    cells = [[name, *(mean_and_std(row.closeness[column]) for column in columns)] for name, row in rows.items()]
    header = ["", *(column.replace("_", " ") for column in columns)]
    note = "Mean and standard deviation over images, data range 1, PSNR in dB. Tissue: input above 0 in any channel."
    return Table("Reconstruction, scored images", header, cells, note)


def paper_table(variant: str, summary: Mapping[str, Mapping[str, Mapping]]) -> Table:
    """One row a contender: mean and standard deviation over images, with the number of images left out."""
    metrics = list(next(iter(summary.values())))
    cells = [[name, *(mean_and_std(numbers[metric]) for metric in metrics)] for name, numbers in summary.items()]
    note = (
        "Each image is normalised by itself, and its pixels above 0.5 are marked, a threshold that no label chose; "
        "then mean and standard deviation over images, which have no score as a whole. Dice of an empty truth is left "
        f"out here; libraries disagree on it. Masks: {MASKS}."
    )
    return Table(f"Paper protocol ({variant}), scored images", ["", *metrics], cells, note)


def mean_and_std(summary: Mapping) -> str:
    """'mean ± std (n=..., left out ...)', or 'n/a (reason)'."""
    left_out = summary["left_out"]
    number = sum(left_out.values()) if isinstance(left_out, Mapping) else left_out
    if summary["mean"] is None:
        return f"n/a ({summary.get('reason', 'undefined')})"
    more = f", {number} left out" if number else ""
    return f"{summary['mean']:.3f} ± {summary['std']:.3f} (n={summary['n']}{more})"
