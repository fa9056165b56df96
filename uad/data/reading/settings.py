"""How images are read: what checkpoints keep as `data`, and what is known of the data sets by name."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from uad.configuration import check_values
from uad.data.reading.contrast import Contrast
from uad.data.reading.normalise import CONTRASTED
from uad.errors import input_error

DATASETS = ("brats", "OCT", "custom", "chexpert")
CHANNELS = {"brats": 4, "OCT": 1}
CHANNEL_NAMES = {"brats": ("t1", "t1ce", "t2", "flair")}
# The contrast that most lesions of the brain stand out in: where there is one, it is what pictures show.
SHOWN = "flair"
IMG_SIZE = 256
COUNTS = ("n_channels", "img_size")


@dataclass(frozen=True)
class Reading:
    """From files to images (n_channels, img_size, img_size) in [0, 1].

    dataset: a name of DATASETS, which says what the channels are called; normalise: one of
    uad.data.reading.normalise.NORMALISATIONS; matched_to: the contrast of the training images, towards which those that
    are judged are brought, None of images that are learned from and of methods that do without.
    """

    dataset: str
    n_channels: int
    img_size: int
    normalise: str
    matched_to: Contrast | None = None

    def __post_init__(self):
        """InputError for numbers that mean nothing."""
        check_values((f"--{name}", getattr(self, name), "1 or more", getattr(self, name) >= 1) for name in COUNTS)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The channels' names, numbers where the data set has none."""
        return CHANNEL_NAMES.get(self.dataset, tuple(f"channel {number}" for number in range(self.n_channels)))

    @property
    def names_channels(self) -> bool:
        """Whether the data set says what the channels show."""
        return self.dataset in CHANNEL_NAMES

    @property
    def display_channel(self) -> int:
        """The channel that pictures show."""
        return shown_channel(self.channel_names)


def shown_channel(names: Sequence[str]) -> int:
    """Which of the channels with these names pictures show."""
    return list(names).index(SHOWN) if SHOWN in names else 0


def matching(reading: Reading, contrast: Contrast | None, wanted: bool, model: object) -> Reading:
    """How images are read that a model judges: brought towards the contrast of its training images, or as those were.

    Raises InputError where that is wanted and the normalisation has no contrast, or it is not known.
    """
    if not wanted:
        return reading
    if reading.normalise != CONTRASTED:
        found, remedy = f"images normalised by {reading.normalise}", "pass --no-match_contrast"
        raise input_error("--match_contrast", found, f"--normalise {CONTRASTED}, whose images have a contrast", remedy)
    if contrast is None:
        raise input_error(
            "--match_contrast",
            f"{model} stores no contrast of its training images",
            "a model that was trained by this version, with --normalise tissue",
            "pass --no-match_contrast, or train it anew",
        )
    return replace(reading, matched_to=contrast)
