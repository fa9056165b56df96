"""What a volume shows, by the name of its file: contrasts and segmentations in the words of the releases."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uad.errors import input_error

# The order in which BraTS channels are stored; other contrasts follow by name.
BRATS_CHANNELS = ("t1", "t1ce", "t2", "flair")
LABEL = "seg"
ENDINGS = {
    "t1": ("t1", "t1w", "t1n"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1post"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2f", "t2flair"),
    "pd": ("pd", "pdw"),
    "dwi": ("dwi",),
    "adc": ("adc",),
    "swi": ("swi",),
    LABEL: ("seg", "segm", "segmentation", "mask", "msk", "label", "labels", "lesion", "lesions", "roi", "dseg", "gtv"),
}
# A segmentation of BIDS, and what its name says where it is of lesions: label-lesion_dseg, desc-T1lesion_mask.
_DSEG = "dseg"
_LESION = re.compile(r"_(label|desc)-[A-Za-z0-9]*(lesion|tumou?r|stroke|wmh)", re.IGNORECASE)
_BIDS = re.compile(r"(sub-[A-Za-z0-9]+)((?:_[A-Za-z]+-[A-Za-z0-9.+]+)*)_([A-Za-z0-9]+)")


# Folders that hold a part of every scan, beside those that are named by a contrast.
PART_FOLDERS = {"images", "image", "labels", "masks", "anat", "derivatives", "segmentations", "annotations"}


class Named(NamedTuple):
    """What a file's name says. scan: empty where it says none; shows: a channel, LABEL, or None."""

    scan: str
    shows: str | None


def endings_of(channels: Sequence[str] | None) -> dict[str, str]:
    """Ending in lower case -> channel, for channels written `flair` or `flair=ENDING`; None: all that are known.

    A channel that is not known is its own ending. InputError for a channel stated twice.
    """
    table = {ending: channel for channel, endings in ENDINGS.items() for ending in endings}
    names = [channel.partition("=")[0] for channel in channels or ()]
    if len(set(names)) < len(names):
        raise input_error("--channels", " ".join(channels), "each channel once", "remove what is repeated")
    for channel in channels or ():
        name, _, ending = channel.partition("=")
        if ending:
            table = {known: shows for known, shows in table.items() if shows != name}
            table[ending.lower()] = name
        elif name not in ENDINGS:
            table[name.lower()] = name
    return table


def channel_order(found) -> tuple[str, ...]:
    """Channels in the order of BraTS, others by name after them."""
    known = [channel for channel in BRATS_CHANNELS if channel in found]
    return (*known, *sorted(set(found) - {*known, LABEL}))


def named(stem: str, endings: Mapping[str, str]) -> Named:
    """The scan and what it shows, from a file name without its extension.

    BIDS names lose what is not subject or session; any other name is split before the longest known ending.
    """
    bids = _BIDS.fullmatch(stem)
    if bids:
        entities = bids[2].split("_")[1:]
        sessions = [entity for entity in entities if entity.startswith("ses-")]
        # An ending that was stated may hold entities, such as run-1_FLAIR.
        longer = [ending for ending in endings if "_" in ending and stem.lower().endswith(f"_{ending}")]
        shows = endings[longer[0]] if longer else endings.get(bids[3].lower())
        if shows == "t1" and any(entity.startswith("ce-") for entity in entities):
            shows = "t1ce"
        return Named("_".join([bids[1], *sessions]), shows)
    for ending in sorted(endings, key=len, reverse=True):
        head = stem[: -len(ending)]
        if stem.lower().endswith(ending) and (not head or head[-1] in "-_."):
            scan = head.rstrip("-_.")
            # `..._t2_flair` is one name of FLAIR.
            without = re.fullmatch(r"(.+)[-_.]t2", scan, re.IGNORECASE)
            return Named(without[1] if endings[ending] == "flair" and without else scan, endings[ending])
    return Named(stem, None)


def may_show_tissue(stem: str, endings: Mapping[str, str]) -> bool:
    """Whether a file is a segmentation of BIDS that does not name lesions: fMRIPrep's show tissues.

    Never where it was stated how labels end, as that the only ending of theirs is.
    """
    bids = _BIDS.fullmatch(stem)
    stated = list(endings.values()).count(LABEL) == 1
    return bids is not None and bids[3].lower() == _DSEG and not _LESION.search(bids[2]) and not stated


def names_a_part(folder: str, endings: Mapping[str, str]) -> bool:
    """Whether a folder is named by what its files show, so that scans may lie spread over it and others."""
    words = re.split(r"[-_. ]", folder.lower())
    return any(word in endings or word in PART_FOLDERS or word in ("imagestr", "labelstr") for word in words)
