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
    "anomalous_ml": "ml at the threshold",
    "anomalous_voxels": "voxels at the threshold",
    "slice_of_maximum": "slice of the maximum",
    "judged_slices": "slices judged",
    "notices": "notices",
}


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
    write_page(out / PAGE, f"Scans in {out.resolve().name}", "Detection", _answer(records), "", content, viewer)
    return out / PAGE


def _answer(records: Sequence[Mapping]) -> str:
    """How many inputs there are, and which stands out."""
    if not records:
        return "No input could be judged."
    count = f"{len(records):,} input{'' if len(records) == 1 else 's'} judged."
    first = records[0]
    found = f" The highest score is that of {first['name']}: {first['score']:.4g}"
    if first["percentile"] is None:
        return f"{count}{found}. Nothing was calibrated on healthy slices: there is no threshold and no percentile."
    found += f", higher than {first['percentile']:.4g} % of the healthy patients"
    if first["anomalous_ml"] is not None:
        found += f", with {first['anomalous_ml']:.4g} ml at the threshold"
    return f"{count}{found}. Not for clinical use."


def _case(record: Mapping) -> dict:
    facts = [f"score {record['score']:.4g}"]
    if record["percentile"] is not None:
        facts.append(f"percentile among healthy patients {record['percentile']:.4g}")
    if record["anomalous_ml"] is not None:
        facts.append(f"{record['anomalous_ml']:.4g} ml at the threshold")
    threshold = record["threshold"]
    return {
        "file": case_name(record["name"]),
        "name": record["name"],
        "patient": record["name"],
        "numbers": [{"score": record["score"]}],
        "facts": [*facts, *record["notices"]],
        "threshold": "" if threshold is None else f"{threshold:.4g}",
        "meaning": "" if threshold is None else f"{100 * record['false_positive_rate']:g} % FPR on healthy",
    }


def _table(records: Sequence[Mapping]) -> Table:
    """The columns of summary.csv that are read, with numbers of four digits."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in summary_rows(records)]
    cells = [[_short(row[column]) for column in HEADINGS] for row in rows]
    note = "Numbers are those of summary.csv, with four significant digits; records/ holds them all."
    return Table("Inputs, the highest percentile and score first", list(HEADINGS.values()), cells, note)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
