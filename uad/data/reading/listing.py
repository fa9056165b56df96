"""What lies in a folder of slices: images, their masks, and foreign files, which are counted and left alone."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from uad.data.reading.decoding import EXTENSIONS, cannot_open, extension_of
from uad.data.reading.formats import slice_stem
from uad.data.reading.remembering import MEMORY_FOLDER
from uad.errors import InputError, Problem, input_error

EXPECTED_TREE = (
    "a folder of slices, e.g. data/brats/{train_healthy,val_healthy,val_diseased,val_diseased_labels}/"
    "<patient>_<slice>.nii.gz or data/OCT/{NORMAL,val_NORMAL,DRUSEN}/CLASS-<patient>-<number>.jpeg"
)
# How releases name a mask that lies beside its image: x_mask.png or mask_x.png beside x.png.
_MASK = r"(?:masks?|segm?|segmentation|labels?|annotations?|gt|(?:ground_?)?truth)"
_MASK_NAME = re.compile(rf"(?P<image>.+?)[_-]{_MASK}|{_MASK}[_-](?P<same>.+)", re.IGNORECASE)


T = TypeVar("T")


def evenly_spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of the items, evenly spread over them, in their order."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


class Listing(NamedTuple):
    """What a folder of slices holds.

    slices, masks: name of an image -> path, sorted by name, which is the file's stem but for releases that use a stem
    twice; beside: whether the masks lie beside their images; foreign: names of files that are neither, hidden ones too;
    subfolders: their names; problems: what makes it unusable; diseased: whether an image is, by name, where its place
    in a release says it; notices: what else to say of a release.
    """

    slices: dict[str, Path]
    masks: dict[str, Path]
    beside: bool
    foreign: Sequence[str]
    subfolders: Sequence[str]
    problems: list[Problem]
    diseased: Mapping[str, bool]
    notices: Sequence[str]

    @property
    def empty(self) -> set[str]:
        """Images that are known to be healthy where others have masks: theirs would hold no lesion."""
        if not self.masks:
            return set()
        return {name for name, diseased in self.diseased.items() if not diseased and name not in self.masks}


class FolderEntries(NamedTuple):
    """The entries of a folder by kind. files: stem -> what is named like a slice; foreign, subfolders: names of others;
    problems: of entries that are named like slices and are none.
    """

    files: dict[str, Path]
    foreign: list[str]
    subfolders: list[str]
    problems: list[Problem]


def labels_folder(folder: Path | str) -> Path:
    """Where the masks of a folder of slices are looked for first: `<folder>_labels` beside it, as it is spelled."""
    folder = Path(folder)
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    return folder.with_name(f"{folder.name}_labels")


def list_folder(folder: Path | str) -> Listing:
    """List a folder of slices by names alone; no image is read.

    Masks are those of `<folder>_labels` (beside the folder, or beside what it is a symbolic link to), under the names
    of their images; where there is no such folder, those beside the images (x_mask.png) if every image has one.

    Raises InputError when the folder is missing, unreadable, or holds no slice; all else that is wrong is among the
    problems.
    """
    folder = Path(folder)
    entries = folder_entries(folder)
    slices, named_masks, orphans = _apart(entries.files)
    masks_in, problems = _masks_folder(folder)
    problems = entries.problems + problems
    masks = named_masks
    if masks_in is not None:
        masks, unmatched = _matched(folder, slices, masks_in)
        problems += unmatched
    beside = masks_in is None and bool(masks)
    if named_masks or orphans:
        problems += _beside_problems(folder, slices, named_masks, orphans, masks_in)
    return Listing(slices, masks, beside, entries.foreign, entries.subfolders, problems, {}, ())


def folder_entries(folder: Path) -> FolderEntries:
    """What lies directly in a folder, by names alone.

    Raises InputError when it is missing, unreadable, or holds nothing that is named like a slice.
    """
    try:
        return _sorted_out(folder)
    except OSError as error:
        raise cannot_open(error.filename or folder, error) from error


def _sorted_out(folder: Path) -> FolderEntries:
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        if found != "a file" and folder.is_symlink():
            found = "a symbolic link that leads nowhere or to itself"
        raise input_error(folder, found, EXPECTED_TREE, f"create or correct the path; it is resolved from {Path.cwd()}")
    entries = sorted(folder.iterdir(), key=lambda path: path.name)
    named = [path for path in entries if extension_of(path) and not path.name.startswith(".")]
    others = [path for path in entries if not extension_of(path) or path.name.startswith(".")]
    others = [path for path in others if path.name != MEMORY_FOLDER]
    files, problems = {}, []
    for stem, _, path in sorted((slice_stem(path), path.name, path) for path in named):
        problem = _no_file(path) if not path.is_file() else None
        first = files.setdefault(stem, path) if problem is None else path
        if first != path:
            found = f"the same name as {first.name}"
            problem = Problem(str(path), found, "one file a slice", "remove or rename one of the two")
        problems += [problem] if problem else []
    if not files:
        raise InputError(problems) if problems else _nothing_found(folder, entries)
    foreign = [path.name for path in others if not path.is_dir()]
    subfolders = [path.name for path in others if path.is_dir()]
    return FolderEntries(files, foreign, subfolders, problems)


def _no_file(path: Path) -> Problem:
    """What an entry is that is named like a slice and is no file."""
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir())
        held = f"holds {', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}" if inside else "is empty"
        return Problem(
            str(path),
            f"a folder that is named like a file, and {held}",
            "a file",
            f"move the file out of it: it belongs into {path.parent}" if inside else "remove the folder",
        )
    if path.is_symlink():
        found, remedy = "a symbolic link that leads nowhere or to itself", "restore what it leads to, or remove it"
    else:
        found, remedy = "neither a file nor a folder", "remove it"
    return Problem(str(path), found, "a file", remedy)


def _nothing_found(folder: Path, entries: Sequence[Path]) -> InputError:
    visible = [path for path in entries if not path.name.startswith(".")]
    there = ", ".join(path.name + ("/" if path.is_dir() else "") for path in visible[:5]) or "nothing"
    subfolders = [path.name for path in visible if path.is_dir()]
    remedy = f"name one of its subfolders, e.g. {subfolders[0]}" if subfolders else "put the slices there"
    return input_error(
        folder,
        f"no slices; it holds {there}{', ...' if len(visible) > 5 else ''}",
        f"files ending in {', '.join(EXTENSIONS)} directly in this folder",
        f"{remedy}; scripts/prepare_mri.py (patient folders, volumes) and scripts/prepare_oct.py prepare raw releases",
    )


def _apart(files: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path], list[Path]]:
    """Images, their masks by the images' stems, and masks without an image.

    A folder in which every file is named like a mask holds images.
    """
    matches = {
        stem: match["image"] or match["same"] for stem in files if (match := _MASK_NAME.fullmatch(stem)) is not None
    }
    if len(matches) == len(files):
        return files, {}, []
    slices = {stem: path for stem, path in files.items() if stem not in matches}
    masks = {image: files[stem] for stem, image in sorted(matches.items()) if image in slices}
    paired = set(masks.values())
    return slices, masks, [files[stem] for stem in matches if files[stem] not in paired]


def _beside_problems(
    folder: Path, slices: dict[str, Path], masks: dict[str, Path], orphans: Sequence[Path], masks_in: Path | None
) -> list[Problem]:
    """At most one problem: masks beside the images that are not the one mask of every image."""
    count = len(masks) + len(orphans)
    example = next(iter(masks.values()), next(iter(orphans), None)).name
    found = f"{count} files named like masks, e.g. {example}, beside {len(slices)} images"
    if masks_in is not None:
        found, expected = f"{found}, and the folder {masks_in}", "masks in one of the two places"
        remedy = "remove the masks in one of the two places"
    elif count == len(masks) == len(slices):
        return []
    else:
        missing = len(slices) - len(masks)
        found += f": {missing} images have none" if missing else ""
        found += f", {len(orphans)} have no image, or their image has another" if orphans else ""
        expected = f"one mask for every image, or all masks in {labels_folder(folder)}"
        remedy = (
            "add the missing masks (all zero for an image without lesion) or move the images that lack one elsewhere; "
            "rename the files that are images; scripts/prepare_mri.py sorts folders of patients"
        )
    return [Problem(str(folder), found, expected, remedy)]


def _masks_folder(folder: Path) -> tuple[Path | None, list[Problem]]:
    """The one folder of masks beside a folder or what it is a link to, None where there is none."""
    found: dict[Path, Path] = {}
    problems = []
    for candidate in map(labels_folder, _link_chain(folder)):
        if candidate.is_dir():
            found.setdefault(candidate.resolve(), candidate)
        elif os.path.lexists(candidate):
            what = "a symbolic link that leads nowhere or to itself" if candidate.is_symlink() else "a file"
            problems.append(Problem(str(candidate), what, "a folder of masks", "correct or remove it"))
    if len(found) > 1:
        first, second, *_ = found.values()
        problems.append(
            Problem(
                str(folder),
                f"two folders of masks: {first} and {second}, beside the symbolic link and beside what it leads to",
                "one folder of masks",
                "remove or rename one of the two",
            )
        )
    return next(iter(found.values()), None), problems


def _link_chain(folder: Path) -> Iterable[Path]:
    """A folder that exists and, where it is a symbolic link, all that it leads to."""
    yield folder
    while folder.is_symlink():
        folder = folder.parent / folder.readlink()
        yield folder


def _matched(folder: Path, slices: dict[str, Path], masks_in: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The masks in a folder of their own, by stem, and all that does not match."""
    try:
        entries = folder_entries(masks_in)
    except InputError as error:
        return {}, error.problems
    masks = entries.files
    unmatched = [
        Problem(
            str(masks[stem]),
            "a mask without an image",
            f"an image of the same name in {folder}",
            "add the image or remove the mask",
        )
        for stem in masks.keys() - slices.keys()
    ]
    unmatched += [
        Problem(
            str(slices[stem]),
            "an image without a mask",
            f"a mask of the same name in {masks_in}, which exists",
            "add the mask (all zero for an image without lesion), or move the image elsewhere",
        )
        for stem in slices.keys() - masks.keys()
    ]
    return masks, entries.problems + sorted(unmatched, key=lambda problem: problem.where)
