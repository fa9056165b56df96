"""Which images the viewer shows, and which of them lie inside the page itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from uad.evaluation.clinical import Clinical
from uad.evaluation.measure import ImageMeasure
from uad.evaluation.statistics import HEADLINE_RATE, names_at

SCORED, HEALTHY = "scored", "healthy"
# Numbers of an image, per method, by which the viewer sorts: its key there -> its name among RowMeasure.numbers.
NUMBERS = {"dice": names_at(HEADLINE_RATE)[0], "ap": "ap", "best_dice": "best_dice"}
# So many images lie in the page, those that are looked at first, and fewer where they are large.
EMBEDDED = 24


@dataclass(frozen=True)
class Entry:
    """An image of the viewer.

    group: SCORED or HEALTHY, the folder that it is of; diseased, lesion_pixels: None where unknown; numbers: a dict
    per method: "score" and, of those of NUMBERS, what is defined; film: whether its denoising can be played.
    """

    name: str
    patient: str
    group: str
    diseased: bool | None
    lesion_pixels: int | None
    numbers: tuple[dict[str, float], ...] = field(hash=False)
    film: bool = False


def entries_of(methods: Mapping[str, Clinical], has_film: Callable[[str, str], bool]) -> list[Entry]:
    """All images of methods on the same images; methods: name of the row -> its result; has_film: whether there is a
    film of an image, by its group and name.
    """
    first = next(iter(methods.values()))
    found = []
    for group, images in ((SCORED, first.images), (HEALTHY, first.healthy)):
        for number, image in enumerate(images):
            numbers = tuple(
                _numbers((each.images if group == SCORED else each.healthy)[number], name)
                for name, each in methods.items()
            )
            known = image.name, image.patient, group, image.diseased, image.lesion_pixels
            found.append(Entry(*known, numbers, has_film(group, image.name)))
    return found


def _numbers(image: ImageMeasure, name: str) -> dict[str, float]:
    row = image.rows[name]
    numbers = {key: row.numbers[own] for key, own in NUMBERS.items() if own in row.numbers}
    # Undefined ones, of images without lesion, are NaN, which equals nothing.
    return {"score": row.image_score} | {key: value for key, value in numbers.items() if value == value}


def by_interest(entries: Sequence[Entry], leading: int = 0) -> list[Entry]:
    """The images in the order in which they are worth a place: best, worst and median by AP (without masks by score),
    the healthy one of the highest score and the diseased one of the lowest, those with a film, which someone asked for,
    then evenly drawn ones by score, of diseased and healthy images in turn; leading: the method by whose numbers.
    """
    by_score = sorted(entries, key=lambda entry: (entry.numbers[leading]["score"], entry.group, entry.name))
    healthy = [entry for entry in by_score if entry.group == HEALTHY or entry.diseased is False]
    others = [entry for entry in by_score if not (entry.group == HEALTHY or entry.diseased is False)]
    with_ap = [entry for entry in others if "ap" in entry.numbers[leading]]
    by_ap = sorted(with_ap, key=lambda entry: entry.numbers[leading]["ap"])
    ranked = by_ap or others
    first = [ranked[-1], ranked[0], ranked[len(ranked) // 2]] if ranked else []
    first += healthy[-1:] + others[:1] + [entry for entry in entries if entry.film]
    drawn = [_evenly(others), _evenly(healthy)]
    longest = max(map(len, drawn))
    turns = [group[i] for i in range(longest) for group in drawn if i < len(group)]
    return list({(entry.group, entry.name): entry for entry in (*first, *turns)}.values())


def _evenly(ranked: Sequence[Entry]) -> list[Entry]:
    """All, in an order of which every beginning is spread evenly over the ranks: both ends, then ever finer halves."""
    count = len(ranked)
    order: dict[int, None] = {}
    parts = 1
    while len(order) < count:
        order |= dict.fromkeys(round(i * (count - 1) / parts) for i in range(parts + 1))
        parts *= 2
    return [ranked[i] for i in order]
