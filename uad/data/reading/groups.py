"""Images of one class of a released data set with their masks: what every layout of a benchmark comes down to."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from uad.data.reading.decoding import cannot_open, extension_of
from uad.data.reading.formats import slice_stem
from uad.data.reading.listing import folder_entries
from uad.errors import Problem, input_error

TRAIN, VAL, TEST = PARTS = ("train", "val", "test")
# How releases name the folder of a part.
PART_FOLDERS = {TRAIN: ("train",), VAL: ("val", "valid", "validation"), TEST: ("test",)}


class Group(NamedTuple):
    """Images of one class in a part of a release.

    name: of the class; images: stem -> file; masks: stem of the image -> file, None where this class has no place for
    masks; diseased: whether these images are, None where only their masks tell; others: names of files and folders that
    are left alone; problems: what is wrong with the files.
    """

    name: str
    images: dict[str, Path]
    masks: dict[str, Path] | None
    diseased: bool | None
    others: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def visible(folder: Path) -> list[os.DirEntry]:
    """What lies in a folder and is not hidden, none where it is no folder; InputError where it may not be listed.

    Symbolic links that lead nowhere or to themselves, at which a look would fail, are left out.
    """
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:  # which knows folders without a look at each of many files
            there = [entry for entry in entries if entry.name[0] != "."]
    except OSError as error:
        raise cannot_open(folder, error) from error
    found = (entry for entry in there if not entry.is_symlink() or Path(entry.path).exists())
    return sorted(found, key=lambda entry: entry.name)


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, by name; none where it is no folder."""
    return [Path(entry.path) for entry in visible(folder) if entry.is_dir()]


def has(folder: Path, *names: str, inside: str | None = None) -> bool:
    """Whether a folder, or the one called `inside` in it, holds a folder of one of these names, in whatever case."""
    if inside is not None:
        return any(has(path, *names) for path in subfolders(folder) if path.name.lower() == inside)
    return any(path.name.lower() in names for path in subfolders(folder))


def child(folder: Path, *names: str) -> Path | None:
    """The folder in `folder` that has one of these names, in whatever case, None where there is none.

    Raises InputError where several have.
    """
    found = [path for path in subfolders(folder) if path.name.lower() in names]
    if len(found) > 1:
        there = " and ".join(path.name for path in found)
        raise input_error(
            folder, f"the folders {there}", "one of the two", "remove or rename what does not belong here"
        )
    return found[0] if found else None


def part_folder(root: Path, part: str) -> Path:
    """The folder of a part, one of PARTS; InputError where there is none."""
    found = child(root, *PART_FOLDERS[part])
    if found is None:
        there = ", ".join(path.name for path in subfolders(root)) or "none"
        raise no_part(root, part, f"no folder of the part {part} (there are {there})")
    return found


def no_part(root: Path, part: str, found: str):
    """The InputError of a release without a part."""
    expected = f"images of the part {part}"
    return input_error(root, found, expected, "choose a part that it has with --split, or unpack the release again")


def folder_group(
    name: str,
    images: Path,
    diseased: bool,
    masks: Path | None = None,
    image_of: Callable[[str], str | None] = str,
) -> Group:
    """All images of a folder; image_of: stem of a mask -> that of its image, None for a file that is no mask.

    Healthy images need no masks, and their folder may be empty. Raises InputError for a folder that cannot be listed or
    holds no image.
    """
    entries = folder_entries(images)
    others = (*entries.foreign, *(f"{each}/" for each in entries.subfolders if masks is None or images / each != masks))
    if masks is None or not (diseased or any(extension_of(each.name) for each in visible(masks))):
        return Group(name, entries.files, None, diseased, others, tuple(entries.problems))
    held = folder_entries(masks)
    others = (*others, *held.foreign)
    return Group(
        name, entries.files, paired(held.files, image_of), diseased, others, (*entries.problems, *held.problems)
    )


def beside(folder: Path, read: Iterable[str]) -> Group:
    """No images, but the names of what lies in a folder beside those folders that are read, by their names in lower
    case: other folders, and files that are named like images.
    """
    others = [f"{each.name}/" for each in subfolders(folder) if each.name.lower() not in read]
    others += [each.name for each in visible(folder) if extension_of(each.name) and not each.is_dir()]
    return Group("", {}, None, None, tuple(f"{folder.name}/{name}" for name in others))


def paired(files: Mapping[str, Path], image_of: Callable[[str], str | None]) -> dict[str, Path]:
    """Masks by the stems of their images; image_of as in folder_group."""
    named = ((image_of(stem), path) for stem, path in files.items())
    return {stem: path for stem, path in named if stem is not None}


def listed_group(name: str, folder: Path, names: Iterable[str], diseased: bool, table: Path) -> Group:
    """The files of a folder that a table lists, without masks; those that are missing or repeated are problems."""
    images: dict[str, Path] = {}
    problems = []
    for path in (folder / each for each in names):
        first = images.setdefault(slice_stem(path), path)
        if not path.is_file():
            expected = f"the image that {table} lists"
            problems.append(Problem(str(path), "no such file", expected, "unpack the release again"))
        elif first is not path:
            found = f"listed twice in {table}" if first == path else f"the same name as {first}"
            problems.append(Problem(str(path), found, "each image once, and one file a name", "correct the table"))
    return Group(name, images, None, diseased, (), tuple(problems))
