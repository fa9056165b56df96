"""Which label belongs to which map, by the names of their files: equal but for the words that say what a file shows."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.decoding import EXTENSIONS, cannot_open
from uad.data.reading.naming import ENDINGS, LABEL, endings_of, named
from uad.data.reading.volumes import VOLUME_EXTENSIONS
from uad.errors import InputError, Problem, input_error

FORMATS = tuple(dict.fromkeys((*EXTENSIONS, *VOLUME_EXTENSIONS)))
_MAP_WORDS = (
    "anomaly", "anomalies", "anomalymap", "map", "maps", "heatmap", "score", "scores", "pred", "prediction", "prob",
    "probability", "residual", "error", "diff",
)  # fmt: skip
_LABEL_WORDS = (*ENDINGS[LABEL], "masks", "gt", "groundtruth", "truth", "annotation")
# A mask of detect.py says at which rate of false positives it was made.
_WORDS = rf"(?:{'|'.join((*_MAP_WORDS, *_LABEL_WORDS))}|fpr0?\.\d+)"
_SHOWN = re.compile(rf"(.+?)(?:[-_.]{_WORDS})+", re.IGNORECASE)
_NOTHING_ELSE = re.compile(rf"{_WORDS}(?:[-_.]{_WORDS})*", re.IGNORECASE)
RULE = (
    "names that are equal without their extension and without an ending such as _anomaly_map, _pred, _seg or _mask, or "
    "the name of the folder of a file that is called nothing else"
)


class Pair(NamedTuple):
    """One image's files. name: what their names have in common; label: None for a healthy image without one."""

    name: str
    map: Path
    label: Path | None


def image_name(path: Path, root: Path) -> str:
    """The image that a file belongs to: its name without extension and without the words that say what it shows; where
    nothing is left of a file below `root`, the name of its folder.

    `p1_anomaly_map.nii.gz`, `p1_seg.nii`, `p1.npy` and `p1/lesion.nii.gz` all belong to `p1`.
    """
    stem = _stem(path)
    if _NOTHING_ELSE.fullmatch(stem) and path.parent != root:
        return path.parent.name
    match = _SHOWN.fullmatch(stem)
    return match[1] if match else stem


def _stem(path: Path) -> str:
    extension = next(each for each in FORMATS if path.name.lower().endswith(each))
    return path.name[: -len(extension)]


def pairs_of(maps: Path, labels: Path | None) -> list[Pair]:
    """The maps in a folder with their labels in another, sorted by name; labels None: maps of healthy images.

    Raises InputError with every map without label, label without map, and name that several files share.
    """
    problems: list[Problem] = []
    found = {}
    for folder, what in ((maps, "map"), (labels, "label")):
        try:
            found[what] = _by_image(_files(folder, what), folder) if folder else {}
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if labels and not found["map"].keys() & found["label"].keys():
        raise _nothing_in_common(labels, found["map"], found["label"])
    for name in sorted(found["map"].keys() | found["label"].keys()):
        of_maps, of_labels = found["map"].get(name, []), found["label"].get(name, [])
        problems += _ambiguous(name, of_maps) + _ambiguous(name, of_labels)
        if labels and not of_labels:
            remedy = "add the label (all zero for an image without lesion), or move the map elsewhere"
            problems += [Problem(str(path), "a map without label", _partner(name, labels), remedy) for path in of_maps]
        if not of_maps:
            remedy = "add the map, or move the label elsewhere"
            problems += [Problem(str(path), "a label without map", _partner(name, maps), remedy) for path in of_labels]
    if problems:
        raise InputError(problems)
    return [Pair(name, paths[0], found["label"].get(name, [None])[0]) for name, paths in sorted(found["map"].items())]


def _files(folder: Path, what: str) -> list[Path]:
    """The files of a known format in a folder or, where it holds none, in those below it; hidden ones are left out.

    Files named by a contrast (`_t1`, ...) are no labels, which releases keep beside them. InputError where there is
    none.
    """
    expected = f"a folder with one {what} per file: {', '.join(FORMATS)}"
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "no such folder"
        raise input_error(folder, found, expected, f"correct the path; it is resolved from {Path.cwd()}")
    try:
        here, below = (_visible(found, folder) for found in (folder.iterdir(), folder.rglob("*")))
    except OSError as error:
        raise cannot_open(folder, error) from error
    files = here or below
    if not files:
        raise input_error(folder, "none of these in it or below it", expected, f"put the {what}s there")
    if what == "label":
        known = endings_of(None)
        files = [path for path in files if named(_stem(path), known).shows in (None, LABEL)]
    return files


def _visible(paths: Iterable[Path], folder: Path) -> list[Path]:
    """Files of a known format that neither are hidden nor lie in hidden folders."""
    files = (path for path in sorted(paths) if path.name.lower().endswith(FORMATS) and path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _by_image(paths: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        grouped[image_name(path, root)].append(path)
    return dict(grouped)


def _ambiguous(name: str, paths: Sequence[Path]) -> list[Problem]:
    """At most one problem: several files in one folder that belong to one image."""
    if len(paths) < 2:
        return []
    found = f"{len(paths)} files of the image {name}: {', '.join(path.name for path in paths)}"
    return [
        Problem(str(paths[0].parent), found, f"one; files belong together by {RULE}", "remove or rename the others")
    ]


def _partner(name: str, folder: Path) -> str:
    return f"a file of the image {name} in {folder}; files belong together by {RULE}"


def _nothing_in_common(labels: Path, of_maps: dict[str, list[Path]], of_labels: dict[str, list[Path]]) -> InputError:
    label, anomaly_map = (next(iter(grouped.values()))[0].name for grouped in (of_labels, of_maps))
    found = f"{len(of_labels)} labels (such as {label}), none of which has the name of a map (such as {anomaly_map})"
    return input_error(labels, found, RULE, "correct the paths, or rename the files of one folder")
