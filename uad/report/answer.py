"""The result in a sentence, its details and a few figures, made of the same strings as the tables."""

from collections.abc import Mapping, Sequence

from uad.evaluation.bootstrap import Estimate
from uad.evaluation.clinical import Clinical, Row, difference
from uad.evaluation.leading import RANKED_BY, highest, ranking
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
    """What was found and how sure it is, in one sentence."""
    row = clinical.rows[method]
    name = capital(method)
    ap, image = row.estimates["ap"], row.estimates["image_auroc"]
    if ap.value is not None:
        chance = f"random scores have {clinical.prevalence:.4f}"
        return f"{name} marks lesions with an average precision of {ap}, where {chance}."
    if image.value is not None:
        return f"{name} tells diseased from healthy images with an AUROC of {image}; of pixels: {ap}."
    return f"{name} cannot be measured on these images; of pixels: {ap}; of images: {image}."


def details_of(clinical: Clinical, method: str) -> str:
    """On how many images that holds, and what the best of the simple competitors reaches."""
    return f"{capital(_images(clinical))}. {_beside_the_best(clinical.rows, method)}".strip()


def _images(clinical: Clinical) -> str:
    return f"{_of(clinical.counts['images'], 'image')} of {_of(clinical.counts['patients'], 'patient')}"


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def capital(text: str) -> str:
    """The text with a capital at its beginning."""
    return text[0].upper() + text[1:]


def _beside_the_best(rows: Mapping[str, Row], method: str) -> str:
    """The competitor of the highest AP and the paired difference to it, and whether that is more than chance."""
    others = {name: row for name, row in rows.items() if name != method and row.estimates["ap"].value is not None}
    if not others or rows[method].estimates["ap"].value is None:
        return ""
    best = highest(others)
    found = difference(rows[method], rows[best], "ap")
    said = f"The best of {len(others)} simple competitors, {best}," if len(others) > 1 else capital(best)
    return f"{said} has an average precision of {rows[best].estimates['ap']}; {_difference(found)}."


def _difference(found: Estimate) -> str:
    """A paired difference in words, and whether it may be chance."""
    by_chance = found.low is not None and found.low <= 0 <= found.high
    return f"the difference is {signed(found)}{', which may be chance' if by_chance else ''}"


def answer_of_methods(rows: Mapping[str, Row], clinical: Clinical) -> str:
    """Which of several methods has the highest AP (without masks, AUROC of images), in one sentence."""
    metric, best = ranking(rows), highest(rows)
    methods = f"{_of(len(rows), 'method')} on the same {_images(clinical)}"
    if metric is None:
        return f"{methods}: {rows[best].estimates['ap']}."
    word = "average precision" if metric == "ap" else RANKED_BY[metric]
    return f"Of {methods}, {best} has the highest {word}, {rows[best].estimates[metric]}."


def details_of_methods(rows: Mapping[str, Row]) -> str:
    """The first of several methods beside the highest of the others; nothing where these cannot be ranked."""
    metric, first = ranking(rows), next(iter(rows))
    others = {name: row for name, row in rows.items() if name != first}
    if not others or metric is None or rows[first].estimates[metric].value is None or ranking(others) != metric:
        return ""
    best = highest(others)
    found = difference(rows[first], rows[best], metric)
    return f"{capital(first)} minus {best}, {RANKED_BY[metric]}: {_difference(found)}."


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


def forest_of(rows: Mapping[str, Row], own: str, chosen: str = "") -> str:
    """AP of rows, AUROC of images where no AP is defined, nothing where neither is; own: the one that stands out;
    chosen: how they were chosen of more.
    """
    metric = ranking(rows)
    if metric is None:
        return ""
    found = {name: row.estimates[metric] for name, row in rows.items() if row.estimates[metric].value is not None}
    title = f"{HEADLINE[metric]}, with 95 % intervals over patients"
    return forest_html(f"{title}. {chosen}" if chosen else title, found, own)


def examples_of(viewer: Viewer) -> Sequence[tuple[int, str, str]]:
    """The first two cases of the viewer, best and worst by AP, or else by score: number, word, caption."""
    metric, known = ("ap", "AP") if "ap" in viewer.cases[0]["numbers"][viewer.leading] else ("score", "image score")
    words = ("Best case", "Worst case") if metric == "ap" else ("Highest score", "Lowest score")
    whose = f" of {viewer.methods[viewer.leading].name}" if len(viewer.methods) > 1 else ""
    found = []
    for number, word in enumerate(words[: len(viewer.cases)]):
        case = viewer.cases[number]
        parts = [f"{known} {case['numbers'][viewer.leading][metric]:{'.3f' if metric == 'ap' else '.4g'}}"]
        if case["lesion_pixels"]:
            parts.append(f"lesion of {_of(case['lesion_pixels'], 'pixel')}")
        found.append((number, f"{word}{whose}", ", ".join([*parts, case["name"]])))
    return found
