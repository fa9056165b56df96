"""The result in a sentence and a few figures, made of the same strings as the tables."""

from collections.abc import Mapping, Sequence

from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.published import Published
from uad.evaluation.tables import HEADLINE, signed
from uad.report.markup import card_html, forest_html
from uad.report.viewer import Viewer

# The four figures, and what each is, in a few words.
CARDS = {
    "ap": ("AP of pixels", "average precision; random scores have the prevalence, {prevalence}"),
    "best_dice": ("Best Dice", "of one threshold that is chosen with the labels: an upper bound"),
    "auroc": ("AUROC of pixels", "0.5 is chance"),
    "image_auroc": ("AUROC of images", "diseased against healthy images; 0.5 is chance"),
}


def answer_of(clinical: Clinical, method: str) -> str:
    """What was found, how sure it is, and what the best of the competitors does."""
    row, counts = clinical.rows[method], clinical.counts
    name = method[0].upper() + method[1:]
    ap, image = row.estimates["ap"], row.estimates["image_auroc"]
    images = f"{_of(counts['images'], 'image')} of {_of(counts['patients'], 'patient')}"
    if ap.value is not None:
        prevalence = f"{clinical.prevalence:.4f}"
        found = f"{name} marks lesions in {images} with an average precision of {ap} (random scores: {prevalence})."
        found += _beside_the_best(clinical.rows, method)
        if image.value is not None:
            found += f" It tells diseased from healthy images with an AUROC of {image}."
        return found
    if image.value is not None:
        return f"{name} tells diseased from healthy images with an AUROC of {image}, over {images}. Pixels: {ap}."
    return f"{name} was run on {images}. Pixels: {ap}. Images: {image}. The maps can be looked at below."


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _beside_the_best(rows: Mapping[str, Row], method: str) -> str:
    """The competitor of the highest AP and the paired difference to it, and whether that is more than chance."""
    others = {name: row for name, row in rows.items() if name != method and row.estimates["ap"].value is not None}
    if not others:
        return ""
    best = max(others, key=lambda name: others[name].estimates["ap"].value)
    found = difference(rows[method], rows[best], "ap")
    said = f" The best of {len(others)} simple competitors, {best}, reaches {rows[best].estimates['ap']}"
    if len(others) == 1:
        said = f" {best[0].upper() + best[1:]} reaches {rows[best].estimates['ap']}"
    return f"{said}; the difference is {signed(found)}{_chance(found)}."


def _chance(found) -> str:
    if found.low is None:
        return ""
    return ", which may be chance" if found.low <= 0 <= found.high else ""


def answer_of_methods(rows: Mapping[str, Row], clinical: Clinical) -> str:
    """Which of several methods has the highest AP (without masks, AUROC of images), and the first beside the others."""
    counts = clinical.counts
    images = f"{_of(counts['images'], 'image')} of {_of(counts['patients'], 'patient')}"
    metric, word = next(
        (
            (metric, word)
            for metric, word in (("ap", "average precision"), ("image_auroc", "AUROC of images"))
            if any(row.estimates[metric].value is not None for row in rows.values())
        ),
        (None, None),
    )
    if metric is None:
        return f"{_of(len(rows), 'method')} on the same {images}: {next(iter(rows.values())).estimates['ap']}."
    defined = {name: row for name, row in rows.items() if row.estimates[metric].value is not None}
    best = max(defined, key=lambda name: defined[name].estimates[metric].value)
    said = f"Of {_of(len(rows), 'method')} on the same {images}, {best} has the highest {word}, "
    said += f"{rows[best].estimates[metric]}."
    first = next(iter(rows))
    others = [name for name in defined if name != first]
    if first in defined and others:
        against = best if best != first else max(others, key=lambda name: defined[name].estimates[metric].value)
        found = difference(rows[first], rows[against], metric)
        said += f" {first[0].upper() + first[1:]} minus {against}: {signed(found)}{_chance(found)}."
    return said


def cards_of(clinical: Clinical, method: str) -> str:
    """The figures as cards."""
    row = clinical.rows[method]
    prevalence = "n/a" if clinical.prevalence is None else f"{clinical.prevalence:.4f}"
    cards = "".join(
        card_html(label, row.estimates[metric], note.format(prevalence=prevalence))
        for metric, (label, note) in CARDS.items()
    )
    return f"<div class='cards'>{cards}</div>"


def cards_of_published(found: Published) -> str:
    """The first four figures of a benchmark's protocol, of the first method."""
    row = found.rows[found.method[0]]
    shown = [metric for metric in found.columns if not metric.endswith("threshold")][: len(CARDS)]
    cards = "".join(card_html(found.columns[metric], row[metric], f"protocol {found.protocol}") for metric in shown)
    return f"<div class='cards'>{cards}</div>"


def forest_of(rows: Mapping[str, Row], most: int) -> str:
    """AP of the first row and of the best others, at most so many, in their order; AUROC of images where AP is not
    defined; nothing where neither is.
    """
    first, *others = rows
    for metric in ("ap", "image_auroc"):
        found = {name: row.estimates[metric] for name, row in rows.items() if row.estimates[metric].value is not None}
        best = sorted((name for name in others if name in found), key=lambda name: -found[name].value)[:most]
        if found:
            shown = {name: found[name] for name in rows if name in found and name in (first, *best)}
            left_out = f"; the best {len(best)} of {len(others)} others" if len(best) < len(others) else ""
            return forest_html(f"{HEADLINE[metric]}, with 95 % intervals over patients{left_out}", shown)
    return ""


def examples_of(viewer: Viewer) -> Sequence[tuple[int, str, str]]:
    """The first two cases of the viewer, best and worst by AP, or else by score: number, word, caption."""
    known = ("ap", "AP") if "ap" in viewer.cases[0]["numbers"][0] else ("score", "image score")
    words = ("Best case", "Worst case") if known[0] == "ap" else ("Highest score", "Lowest score")
    found = []
    for number, word in enumerate(words[: len(viewer.cases)]):
        case = viewer.cases[number]
        value = f"{case['numbers'][0][known[0]]:{'.3f' if known[0] == 'ap' else '.4g'}}"
        found.append((number, word, f"{known[1]} {value}, {case['name']}"))
    return found
