"""Folders for a validation that leaves groups out: hospitals, scanners or patients that a network has not seen.

A fold trains on the healthy slices of all other groups and is measured on the diseased and the healthy slices of the
groups it leaves out. Nothing is copied: its folders hold links to the slices and to their masks.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from uad.data.reading.formats import slice_stem
from uad.data.reading.listing import Listing, labels_folder
from uad.data.reading.patients import patient_of
from uad.errors import input_error
from uad.randomness import keyed_generator

TRAIN, HEALTHY, DISEASED = "train", "healthy", "diseased"


class Fold(NamedTuple):
    """A fold: its name, the groups left out, and the names (stems) of its slices by part."""

    name: str
    left_out: tuple[str, ...]
    train: tuple[str, ...]
    healthy: tuple[str, ...]
    diseased: tuple[str, ...]


def groups_of(
    names: Iterable[str], pattern: re.Pattern | None, patients: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The group of every slice: what the pattern finds in its name (its first bracket, if any), else its patient.

    Raises InputError that names a slice in which the pattern finds nothing.
    """
    found = {}
    for name in names:
        if pattern is None:
            found[name] = patient_of(name, patients)
            continue
        match = pattern.search(name)
        if match is None:
            raise input_error(
                "--group", f"{pattern.pattern!r} finds nothing in {name}", "a pattern for every name", "correct it"
            )
        found[name] = match.group(1) if pattern.groups else match.group()
    return found


def folds_of(
    healthy: Mapping[str, str], diseased: Mapping[str, str], parts: Sequence[Collection[str]], names: Sequence[str]
) -> list[Fold]:
    """A fold for every part of the groups that is left out; healthy, diseased: slice -> group.

    Diseased slices of a group of which there are no healthy ones were seen by no network: they are in every fold.
    Raises InputError for a fold without a part.
    """
    known, folds = set(healthy.values()), []
    for part, name in zip(parts, names, strict=True):
        inside = set(part)
        fold = Fold(
            name,
            tuple(sorted(inside)),
            tuple(slice_ for slice_, group in healthy.items() if group not in inside),
            tuple(slice_ for slice_, group in healthy.items() if group in inside),
            tuple(slice_ for slice_, group in diseased.items() if group in inside or group not in known),
        )
        for kind in (TRAIN, HEALTHY, DISEASED):
            if not getattr(fold, kind):
                raise input_error(
                    f"fold {name}, which leaves out {', '.join(fold.left_out)}",
                    f"no slice for its part {kind}",
                    "slices to train on, and healthy and diseased ones to measure on",
                    "choose other --groups or --folds",
                )
        folds.append(fold)
    return folds


def random_parts(groups: Iterable[str], count: int, seed: int) -> list[list[str]]:
    """Groups in `count` random parts of nearly equal numbers, by seed; InputError where there are fewer groups."""
    ordered = sorted(set(groups))
    if len(ordered) < count:
        raise input_error("--folds", str(count), f"at most {len(ordered)}, the number of groups", "choose fewer")
    order = [ordered[i] for i in torch.randperm(len(ordered), generator=keyed_generator(seed, "folds")).tolist()]
    return [sorted(order[start::count]) for start in range(count)]


def link_fold(folder: Path, fold: Fold, healthy: Listing, diseased: Listing) -> None:
    """Make the folders train, healthy and diseased of a fold in `folder`, and those of their masks where all have one,
    of symbolic links. Only healthy images of a release may have masks in part.
    """
    for kind, listing in ((TRAIN, healthy), (HEALTHY, healthy), (DISEASED, diseased)):
        names = getattr(fold, kind)
        _link(folder / kind, {name: listing.slices[name] for name in names})
        masks = {name: listing.masks[name] for name in names if name in listing.masks}
        if len(masks) == len(names):
            _link(labels_folder(folder / kind), masks)


def _link(folder: Path, targets: Mapping[str, Path]) -> None:
    """Links to the targets, each under the name given and the target's own ending, and no other links."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{name}{path.name.removeprefix(slice_stem(path))}": path.resolve() for name, path in targets.items()}
    for link in folder.iterdir():
        if link.is_symlink() and link.resolve() != wanted.get(link.name):
            link.unlink()
    for name, target in wanted.items():
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(target)
