"""What suits the images of a data set: the choices of every command where nothing else is asked for, in one place."""

from dataclasses import dataclass

from uad.scores import DIFFUSE, FOCAL, ImageScore

RETINA = "OCT"


@dataclass(frozen=True)
class Suited:
    """normalise: a rule of uad.data.reading.normalise; lesions: a kind of synthetic lesions, by which healthy images
    are best learned; compare_sides: left and right are alike in healthy ones; image_score: how a map scores its image.
    """

    normalise: str = "tissue"
    lesions: str = "intensity"
    compare_sides: bool = True
    image_score: ImageScore = FOCAL


OTHERS = Suited()
# Disease changes much of a retina. Its sides, nose and temple, are not alike.
SUITED = {RETINA: Suited(normalise="retina", lesions="structure", compare_sides=False, image_score=DIFFUSE)}


def suited_to(dataset: str | None) -> Suited:
    """For one of uad.data.reading.settings.DATASETS; None: for an unknown one."""
    return SUITED.get(dataset, OTHERS)


def default_shown(trait: str) -> str:
    """A trait for --help: the value for most data sets, then those of the others."""
    others = [f", of {dataset} {getattr(suited, trait)}" for dataset, suited in SUITED.items()]
    return "".join([str(getattr(OTHERS, trait)), *others])
