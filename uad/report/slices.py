"""The viewer's content of an evaluation or a comparison: every image's maps, pictures and truth, packed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from uad.evaluation.clinical import Clinical, Row
from uad.evaluation.display import for_display
from uad.evaluation.metrics import N_BINS, float16_bins
from uad.evaluation.study import Study, method_alone
from uad.files import write_text
from uad.films import film_path, read_film
from uad.report.choosing import EMBEDDED, SCORED, Entry, by_interest, entries_of
from uad.report.packing import json_in_page, packed, picture
from uad.report.viewer import (
    CASES,
    EMBEDDED_BYTES,
    Mark,
    MethodShown,
    Viewer,
    case_file,
    case_script,
    embedded_within,
    remove_cases,
)
from uad.results import Result
from uad.scores import EVIDENCE_EXTRA

# The page opens with so many cases, which lie in it however large they are.
OPENED_WITH = 3
# The pooled curve under the slider.
CURVE_POINTS = 160
AVERAGED = "Maps are shown as they are scored: averaged across the slices of a scan."


@dataclass(frozen=True)
class Scored:
    """A method as it was evaluated; its row is the first of the study's."""

    name: str
    study: Study
    healthy: Study | None
    clinical: Clinical

    @property
    def row(self) -> Row:
        """Its pooled result."""
        return self.clinical.rows[self.study.rows[0].name]


@dataclass(frozen=True)
class Packed:
    """An image's content as JSON, and of each method's map what the viewer's scales are made from: median and highest
    bin, and the scores at its 0.2nd and 99.8th percentile."""

    text: str
    ranges: tuple[tuple[int, int, float, float], ...]


def slice_viewer(
    folder: Path, methods: Sequence[Scored], most: int, mapper: Callable = map, leading: int = 0
) -> Viewer | None:
    """The viewer of methods on the same images, at most so many, None for 0. The first EMBEDDED of them lie in the
    page, or fewer that are large; the others are written beside it, to `folder`/CASES. leading: see Viewer.
    """
    remove_cases(folder)
    if not most:
        return None
    entries = entries_of({each.study.rows[0].name: each.clinical for each in methods}, partial(_has_film, methods))
    chosen = by_interest(entries, leading)[:most]
    places = {(entry.group, entry.name): number for number, entry in enumerate(chosen)}
    # In the order of their names, in which neighbouring slices are read once.
    ordered = sorted(chosen, key=lambda entry: (entry.group, entry.name))
    # The maps of competitors are not shown, and would have to be made.
    alone = [tuple(study and method_alone(study) for study in (each.study, each.healthy)) for each in methods]
    pack = partial(pack_case, alone, [each.row.scale for each in methods])
    embedded, ranges = {}, []
    for entry, content in zip(ordered, mapper(pack, ordered), strict=True):
        number = places[entry.group, entry.name]
        ranges.append(content.ranges)
        if number < EMBEDDED:
            embedded[number] = content.text
        else:
            _write_beside(folder, number, content.text)
    for number in _beyond(embedded, EMBEDDED_BYTES):
        _write_beside(folder, number, embedded.pop(number))
    shown = [_method(each, [found[i] for found in ranges]) for i, each in enumerate(methods)]
    return Viewer(
        kind="slices",
        channels=_channels(methods),
        shown_channel=methods[0].study.display_channel,
        methods=tuple(shown),
        cases=tuple(_case(number, entry) for number, entry in enumerate(chosen)),
        embedded=embedded,
        left_out=len(entries) - len(chosen),
        note="" if methods[0].study.near is None else AVERAGED,
        leading=leading,
    )


def _beyond(embedded: Mapping[int, str], most: int) -> list[int]:
    """Those that have no place within so many bytes, but never the first, which the page opens with."""
    sizes = [(number, len(text)) for number, text in sorted(embedded.items())]
    return sorted(embedded.keys() - embedded_within(sizes, most, OPENED_WITH))


def _write_beside(folder: Path, number: int, content: str) -> None:
    name = case_file(number)
    write_text(folder / CASES / name, case_script(name, content))


def _has_film(methods: Sequence[Scored], group: str, name: str) -> bool:
    """Whether the viewer plays a film of an image: that of a method which is alone."""
    study = methods[0].study if group == SCORED else methods[0].healthy
    return len(methods) == 1 and film_path(study.folder.folder, name).is_file()


def _case(number: int, entry: Entry) -> dict:
    return {
        "file": case_file(number),
        "name": entry.name,
        "patient": entry.patient,
        "group": entry.group,
        "diseased": entry.diseased,
        "lesion_pixels": entry.lesion_pixels,
        "numbers": list(entry.numbers),
        "film": entry.film,
    }


def pack_case(studies: Sequence[tuple[Study, Study | None]], scales: Sequence[float], entry: Entry) -> Packed:
    """One image: maps of all methods, the input where any of them has it, truth, and what else a method stores; all
    turned as a radiologist expects.
    """
    maps, ranges, inputs, label = [], [], None, None
    for pair, scale in zip(studies, scales, strict=True):
        study = pair[0] if entry.group == SCORED else pair[1]
        result = study.load(entry.name)
        scores = study.maps(result)[study.rows[0].name]
        bins = float16_bins(for_display(scores, result.affine), scale)
        # Of several methods only the maps are compared: what else each stores would multiply the page.
        maps.append({"map": packed(bins)} | (_made_by(study, result) if len(studies) == 1 else {}))
        if result.image is not None:
            inputs = inputs or _pictures(result.image, result.affine)
        if result.label is not None:
            label = for_display(result.label > 0, result.affine)
        low, high = np.quantile(scores, (0.002, 0.998))
        ranges.append((int(np.median(bins)), int(bins.max()), float(low), float(high)))
    content = {"methods": maps, "input": inputs, "label": None if label is None else packed(label.astype(np.uint8))}
    return Packed(json_in_page(content), tuple(ranges))


def _pictures(image: np.ndarray, affine: np.ndarray) -> list[dict]:
    """(C, H, W) as a picture per channel."""
    return [packed(picture(for_display(channel, affine))) for channel in image]


def _made_by(study: Study, result: Result) -> dict:
    """The reconstruction and the mean flip probability of a position's bits, on its own grid, where they are stored."""
    made = {}
    if result.reconstruction is not None:
        made["reconstruction"] = _pictures(result.reconstruction, result.affine)
    if EVIDENCE_EXTRA in result.record.get("extras", ()):
        flip = study.folder.load(result.name, (EVIDENCE_EXTRA,)).extras[EVIDENCE_EXTRA]
        made["flip"] = packed(picture(for_display(flip[0], result.affine)))
    film = read_film(study.folder.folder, result.name)
    if film is not None:
        frames = {"bits": film.bits, "mask": film.mask, "images": np.moveaxis(film.images, 1, 0)}
        made["film"] = {key: packed(for_display(array, result.affine)) for key, array in frames.items()}
        made["film"]["levels"] = film.levels
    return made


def _method(scored: Scored, ranges: Sequence[tuple[int, int, float, float]]) -> MethodShown:
    """Scales of a method's map, and the meaning of its thresholds."""
    row = scored.row
    marks = [
        Mark(int(float16_bins(value, row.scale)), _meaning(key), f"{value:.4g}")
        for key, value in row.thresholds.items()
        if np.isfinite(value)
    ]
    medians, highest, low, high = (np.array(column) for column in zip(*ranges, strict=True))
    bottom = min(0.0, float(low.min()))
    top = float(np.quantile(high, 0.98))
    first = min([int(np.median(medians)), *(mark.bin for mark in marks)])
    # One beyond the highest bin: there, nothing is called positive.
    last = min(N_BINS, int(highest.max()) + 1)
    curve = _curve(row, first, last)
    return MethodShown(scored.name, row.scale, (first, last), (bottom, max(top, bottom + 1e-12)), tuple(marks), curve)


def _meaning(key: str) -> str:
    """A threshold's key in words."""
    return "best Dice" if key == "best_dice" else f"{key.removeprefix('fpr').removesuffix('%')} % FPR"


def _curve(row: Row, first: int, last: int) -> list[list[float]]:
    """Pooled Dice at some bins between two, ascending; empty where it is not defined."""
    if row.curves is None:
        return []
    bins = float16_bins(row.curves["threshold"], row.scale)[::-1].astype(int)
    dice = row.curves["dice"][::-1]
    inside = np.flatnonzero((bins >= first) & (bins <= last))
    if not len(inside):
        return []
    wanted = np.linspace(first, last, CURVE_POINTS).astype(int)
    near = np.unique(inside[np.clip(np.searchsorted(bins[inside], wanted), 0, len(inside) - 1)])
    return [[int(bins[i]), round(float(dice[i]), 4)] for i in near]


def _channels(methods: Sequence[Scored]) -> tuple[str, ...]:
    """The names of the input's channels; none to choose from where no method's folder holds inputs."""
    if not any(each.study.folder.has_inputs for each in methods):
        return ()
    run = methods[0].study.folder.run
    return tuple(run.get("channel_names") or (f"channel {number}" for number in range(run.get("n_channels", 1))))
