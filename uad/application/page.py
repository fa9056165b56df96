"""The page of scans that were judged: their table, and each of them as pictures with its map.

What it shows of an input was written with that, see uad.application.showing; of the first of the table it lies in the
page as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from uad.application.showing import case_name
from uad.application.writing import COLUMNS, summary_rows
from uad.evaluation.tables import Table
from uad.report.markup import facts_html, folded, table_html
from uad.report.page import PAGE, write_page
from uad.report.viewer import CASES, EMBEDDED_BYTES, Viewer, case_content, embedded_within

HEADINGS = {
    "name": "",
    "score": "score",
    "percentile": "percentile among healthy patients",
    "healthy_patients": "healthy patients",
    "anomalous_ml": "ml at the threshold",
    "anomalous_voxels": "voxels at the threshold",
    "voxel_of_maximum": "voxel of the maximum",
    "judged_slices": "slices judged",
    "notices": "notices",
}
# What is said of scans alone.
OF_SCANS = ("anomalous_ml", "judged_slices")


def write_scans_page(
    out: Path, records: Sequence[Mapping], channels: Sequence[str], display_channel: int, settings: Mapping
) -> Path:
    """Write the page of all inputs that are complete; records: theirs, in the order of the table; returns its path."""
    cases = [_case(record) for record in records]
    paths = [out / CASES / case["file"] for case in cases]
    # Inputs that an earlier version judged have no pictures.
    sizes = [(number, path.stat().st_size) for number, path in enumerate(paths) if path.is_file()]
    # Those at the top of the table.
    embedded = {
        number: case_content(cases[number]["file"], paths[number].read_text(encoding="utf-8"))
        for number in embedded_within(sizes, EMBEDDED_BYTES)
    }
    viewer = Viewer("volumes", tuple(channels), display_channel, (), tuple(cases), embedded) if cases else None
    facts = {key.replace("_", " "): str(value) for key, value in settings.items()}
    content = f"<h2>All inputs</h2>{table_html(_table(records))}{folded('Settings', facts_html(facts))}"
    title = f"{'Scans' if _has_scans(records) else 'Slices'} in {out.resolve().name}"
    write_page(out / PAGE, title, "Detection", f"{_answer(records)} Not for clinical use.", "", content, viewer)
    return out / PAGE


def _is_scan(record: Mapping) -> bool:
    """Whether an input is a scan; the map of a single slice has two axes."""
    return len(record["voxel_of_maximum"]) == 3


def _has_scans(records: Sequence[Mapping]) -> bool:
    return any(map(_is_scan, records)) or not records


def _answer(records: Sequence[Mapping]) -> str:
    """How many inputs there are, and what the first of the table is.

    Its score may be lower than that of another: scans and single slices have healthy patients of their own.
    """
    if not records:
        return "No input could be judged."
    first = records[0]
    count = "1 input judged. The" if len(records) == 1 else f"{len(records):,} inputs judged. First in the table: the"
    found = f"{count} score of {first['name']} is {_score(first)}"
    if first["percentile"] is None:
        return f"{found}. Nothing was calibrated on healthy slices: there is no threshold and no percentile."
    if first["anomalous_ml"] is not None:
        found += f", with {first['anomalous_ml']:.4g} ml at the threshold"
    return f"{found}."


def _score(record: Mapping) -> str:
    """A score, and where it lies among those of the healthy patients that are known."""
    score = f"{record['score']:.4g}"
    percentile, count = record["percentile"], record["healthy_patients"]
    if percentile is None:
        return score
    if count is None:  # of an earlier version
        return f"{score}, higher than that of {percentile:.4g} % of the healthy patients"
    lower = round(percentile * count / 100)
    if count == 1:
        return f"{score}, {'higher' if lower else 'not higher'} than that of the only healthy patient"
    share = f"all {count:,}" if lower == count else f"{lower:,} of the {count:,}"
    return f"{score}, higher than that of {share} healthy patients"


def _case(record: Mapping) -> dict:
    facts = [f"score {_score(record)}"]
    if record["anomalous_ml"] is not None:
        facts.append(f"{record['anomalous_ml']:.4g} ml at the threshold")
    threshold = record["threshold"]
    return {
        "file": case_name(record["name"]),
        "name": record["name"],
        "patient": record["name"],
        "numbers": [{"score": record["score"]}],
        "maximum": record["voxel_of_maximum"],
        "facts": [*facts, *record["notices"]],
        "threshold": "" if threshold is None else f"{threshold:.4g}",
        "meaning": "" if threshold is None else f"{100 * record['false_positive_rate']:g} % FPR on healthy",
    }


def _table(records: Sequence[Mapping]) -> Table:
    """The columns of summary.csv that are read, with numbers of four digits."""
    headings = dict(HEADINGS)
    if not _has_scans(records):
        headings = {key: text.replace("voxel", "pixel") for key, text in HEADINGS.items() if key not in OF_SCANS}
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in summary_rows(records)]
    cells = [[_short(row[column]) for column in headings] for row in rows]
    note = (
        "Numbers are those of summary.csv, with four significant digits; records/ holds them all. The place of the "
        "maximum is its indices in the file, counted from 0."
    )
    return Table("Inputs, the highest percentile and score first", list(headings.values()), cells, note)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
