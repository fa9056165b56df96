"""A part of a released data set, opened as if it were a folder of slices."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uad.data.reading.benchmarks import LAYOUTS, is_brain_mask
from uad.data.reading.formats import slice_stem
from uad.data.reading.groups import TEST, TRAIN, VAL, Group, no_part, subfolders, visible
from uad.data.reading.listing import Listing, list_folder
from uad.data.reading.patients import patient_of
from uad.errors import InputError, Problem, input_error

# Images of a part as released, by layout, name, and what the folder or the one that holds it is called. Of BMAD: its
# paper (Bao et al. 2024); of OCT2017 the healthy ones of `train`, which alone are read.
RELEASED = (
    ("bmad", "Brain of BMAD", r"brain(_ad)?|brats2021_slice", {TRAIN: 7500, TEST: 3715, VAL: 83}),
    ("bmad", "RESC of BMAD", r"(retina_?)?resc(_ad)?", {TRAIN: 4297, TEST: 1805, VAL: 115}),
    ("bmad", "OCT2017 of BMAD", r"(retina_?)?oct2017(_ad)?", {TRAIN: 26315, TEST: 968, VAL: 32}),
    ("kermany", "OCT2017", r"oct2017", {TRAIN: 26315, TEST: 968, VAL: 32}),
    ("medianomaly-brats", "BraTS2021 of MedIAnomaly", r"brats2021", {TRAIN: 4211, TEST: 2776}),
)


@dataclass(frozen=True)
class Released:
    """A part of a release. root: its folder; part: one of uad.data.reading.groups.PARTS; layout: a name of LAYOUTS,
    None: recognised by what lies there; contrast: which images are read where there are several, None: the only ones.

    Where a path is asked for, it is its root.
    """

    root: str
    part: str
    layout: str | None = None
    contrast: str | None = None

    def __fspath__(self) -> str:
        return self.root

    def __str__(self) -> str:
        return f"{self.root}, part {self.part}"


Place = Path | str | Released


def list_images(place: Place) -> Listing:
    """What lies in a folder of slices, see list_folder, or in a part of a release; no image is read.

    Of the part `train` the healthy images are listed. Images have their stems as names, or, where the part has a stem
    twice, `<class>_<stem>`. InputError where nothing can be listed; all else that is wrong is among the problems.
    """
    if not isinstance(place, Released):
        return _plain(Path(place))
    root = Path(place.root)
    layout = recognised(root, place.layout)
    if place.contrast is not None and not LAYOUTS[layout].contrasts:
        raise input_error("--contrast", place.contrast, f"none: files of the layout {layout} show one", "leave it out")
    groups = LAYOUTS[layout].groups(root, place.part, place.contrast)
    left_out = sum(len(group.images) for group in groups if group.diseased) if place.part == TRAIN else 0
    kept = [group for group in groups if not (place.part == TRAIN and group.diseased)]
    count = sum(len(group.images) for group in kept)
    if not count:
        raise no_part(root, place.part, f"no {'healthy ' if left_out else ''}image in the part {place.part}")
    notices = [f"layout {layout}, part {place.part}: {_classes(kept)}"]
    if left_out:
        notices.append(f"{left_out:,} diseased images of the part are left out: training takes healthy ones")
    return _listing(place, kept, [*notices, *count_notices(root, layout, place.part, count)])


def told_patients(place: Released) -> dict[str, str]:
    """The patients that stems name, by the names of the images: a part that has a stem twice names images otherwise."""
    stems = {name: slice_stem(path) for name, path in list_images(place).slices.items()}
    patients = {name: patient_of(stem) for name, stem in stems.items() if name != stem}
    return {name: patient for name, patient in patients.items() if patient != stems[name]}


def _plain(folder: Path) -> Listing:
    """A folder of slices; a release, or a part of one, that is none by itself says what to do."""
    try:
        listing = list_folder(folder)
    except InputError as error:
        fitting = [name for name, layout in LAYOUTS.items() if layout.fits(folder)]
        if not fitting:
            raise
        found = f"no slices, but a benchmark as released, of the layout {' or '.join(fitting)}"
        remedy = "pass it as --data_dir with --split train, val or test; for a folder of slices, name one in it"
        raise input_error(folder, found, "a folder of slices", remedy) from error
    brains = [path for name, path in listing.slices.items() if is_brain_mask(name)]
    if not brains:
        return listing
    found = f"{len(brains)} masks of the brain among the slices, e.g. {brains[0].name}"
    remedy = f"pass --data_dir {folder.parent} --split {folder.name} --contrast NAME, or move them elsewhere"
    return listing._replace(
        problems=[*listing.problems, Problem(str(folder), found, "images, with masks of lesions or none", remedy)]
    )


def recognised(root: Path, named: str | None) -> str:
    """The layout of a release: the one named, or the only one that fits; InputError where none does, or several."""
    if not root.is_dir():
        found = "a file" if root.exists() else "no such folder"
        raise input_error(root, found, "the folder of a release", f"correct the path; it is resolved from {Path.cwd()}")
    if holds_volumes(root):
        raise input_error(
            root,
            "volumes in Train/<data set>/{t1,t2} and Test/<data set>",
            "slices",
            f"cut them first: python scripts/prepare_mri.py --data_dir {root} --out DIR, and pass its folders",
        )
    fitting = [name for name, layout in LAYOUTS.items() if layout.fits(root)]
    if named is None and len(fitting) > 1:
        found = f"what fits the layouts {' and '.join(fitting)}"
        raise input_error(root, found, "one layout", "say which with --layout, or remove what is not of the release")
    if len(fitting) == 0 or (named is not None and named not in fitting):
        forms = [f"{name}: {LAYOUTS[name].form}" for name in ([named] if named else LAYOUTS)]
        names = [each.name + ("/" if each.is_dir() else "") for each in visible(root)]
        there = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
        fits = f" (what fits is {', '.join(fitting)})" if fitting else ""
        remedy = "name the folder that holds the parts of one data set; leave --split out for a folder of slices"
        raise input_error(root, f"no release of that form: {there}{fits}", "\n        ".join(forms), remedy)
    return named or fitting[0]


def holds_volumes(root: Path) -> bool:
    """Whether a folder has the form of the volumes of Behrendt et al. (2025): Train and Test, each with data sets that
    have a folder a contrast.
    """
    parts = [path for path in subfolders(root) if path.name in ("Train", "Test")]
    sets = [folder for part in parts for folder in subfolders(part)]
    return any(path.name in ("t1", "t2", "flair") for folder in sets for path in subfolders(folder))


def count_notices(root: Path, layout: str, part: str, count: int) -> list[str]:
    """What to say where a part of a known release has another number of images than were released."""
    names = [name.strip().lower() for name in root.resolve().parts[-2:]]
    for known, title, pattern, released in RELEASED:
        if layout == known and part in released and any(re.fullmatch(pattern, name) for name in names):
            found = f"{count:,} images, and {released[part]:,} were released as {title}: some may be missing or added"
            return [found] if count != released[part] else []
    return []


def _classes(groups: Sequence[Group]) -> str:
    counts = Counter()
    for group in groups:
        counts[group.diseased] += len(group.images)
    words = {False: "healthy", True: "diseased", None: "told by their masks"}
    return ", ".join(f"{counts[kind]:,} {word}" for kind, word in words.items() if counts[kind])


def _listing(place: Released, groups: Sequence[Group], notices: Sequence[str]) -> Listing:
    """The groups as one listing, with what does not match."""
    problems = [problem for group in groups for problem in group.problems]
    twice = [stem for stem, count in Counter(stem for group in groups for stem in group.images).items() if count > 1]
    # Masks of healthy images alone are no masks of a part with diseased ones, whose masks then lack.
    judged = [group for group in groups if group.images and group.diseased is not False]
    any_masks = any(group.masks is not None for group in judged or groups)
    slices, masks, diseased = {}, {}, {}
    for group in groups:
        names = {stem: f"{group.name}_{stem}" if twice else stem for stem in group.images}
        slices |= {names[stem]: path for stem, path in group.images.items()}
        if group.diseased is not None:
            diseased |= dict.fromkeys(names.values(), group.diseased)
        if any_masks and group.diseased is not False:
            problems += _unmatched(group)
        if any_masks:
            masks |= {names[stem]: path for stem, path in (group.masks or {}).items() if stem in names}
    if len(slices) < sum(len(group.images) for group in groups):
        found = "images of two classes whose names are the same with that of the class before them"
        problems.append(Problem(str(place), found, "different names", "rename one of the classes"))
    others = [name for group in groups for name in group.others]
    files, folders = [name for name in others if name[-1] != "/"], [name[:-1] for name in others if name[-1] == "/"]
    slices = dict(sorted(slices.items()))
    return Listing(slices, masks, False, files, folders, problems, diseased, notices)


def _unmatched(group: Group) -> list[Problem]:
    """Images without a mask, where the others of the part have one, and masks without an image."""
    masks = group.masks or {}
    missing = [
        Problem(
            str(group.images[stem]),
            "an image without a mask",
            "a mask, as other images of this part have",
            "unpack the release again, or remove the image",
        )
        for stem in sorted(group.images.keys() - masks.keys())
    ]
    lone = [
        Problem(str(masks[stem]), "a mask without an image", f"the image {stem}", "add the image or remove the mask")
        for stem in sorted(masks.keys() - group.images.keys())
    ]
    return missing + lone
