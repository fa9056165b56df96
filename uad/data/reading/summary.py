"""What a checked folder of slices, or part of a release, is said to hold."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from uad.data.reading.released import Place

# So many names of a kind are said.
SHOWN = 5


@dataclass
class FolderSummary:
    """What a folder holds.

    sizes: images per (H, W); minimum, maximum: of the raw intensities; resized: images of another size than
    img_size x img_size; distorted: those that are not square; labelled, with_lesion, mostly_lesion: images with a mask,
    with a lesion in it, and with one on more than half of the image; flat_channel: images in which a modality is
    constant, as edge slices may be; lifted: in which one has no dark pixels, though 0 should mean no signal; marked:
    colour files taken as grey; masks_beside: whether the masks lie beside their images; foreign, subfolders: names of
    files and folders that are left alone; notices: what else to say of a release.
    """

    folder: Place
    channels: int
    images: int = 0
    labelled: int = 0
    with_lesion: int = 0
    mostly_lesion: int = 0
    resized: int = 0
    distorted: int = 0
    flat_channel: int = 0
    lifted: int = 0
    marked: int = 0
    patients: int = 0
    minimum: float = float("inf")
    maximum: float = float("-inf")
    sizes: Counter = field(default_factory=Counter)
    masks_beside: bool = False
    foreign: Sequence[str] = ()
    subfolders: Sequence[str] = ()
    notices: Sequence[str] = ()

    def __str__(self) -> str:
        sizes = ", ".join(f"{h} x {w} ({count})" for (h, w), count in self.sizes.most_common(3))
        more = f" and {len(self.sizes) - 3} other sizes" if len(self.sizes) > 3 else ""
        lines = [
            f"{self.folder}: {self.images} images of {self.patients} patients, {self.channels} channel(s), "
            f"intensities {self.minimum:g} to {self.maximum:g}",
            f"    sizes {sizes}{more}; {self.resized} to be resized, {self.distorted} not square",
            f"    {self.labelled} with a mask, {self.with_lesion} with a lesion, {self.flat_channel} with a "
            "constant channel",
        ]
        return "\n".join(lines + [f"    {notice}" for notice in self._notices()])

    def _notices(self) -> Iterable[str]:
        yield from self.notices
        if self.masks_beside:
            yield "masks are the files beside the images that are named like them, e.g. x_mask.png for x.png"
        if 2 * self.mostly_lesion > self.with_lesion:
            yield (
                f"{self.mostly_lesion} of {self.with_lesion} lesions take more than half of their image: look whether "
                "the masks say 0 where they mean the lesion"
            )
        if 2 * self.lifted > self.images:
            yield (
                f"{self.lifted} of {self.images} images have a channel without dark pixels: if a constant was added, "
                "subtract it, for 0 is taken as no signal"
            )
        if self.marked:
            yield f"{_counted(self.marked, 'colour file')} taken as grey: less than 1 % of their pixels are in colour"
        if self.foreign:
            yield f"{_counted(len(self.foreign), 'foreign file')}: {_first(self.foreign)}"
        if self.subfolders:
            yield f"{_counted(len(self.subfolders), 'subfolder')} not looked into: {_first(self.subfolders)}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
