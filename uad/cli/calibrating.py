"""Which thresholds and percentiles hold for a command, and measuring them where there are none yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from uad.application.calibration import Calibrations, calibrate, keep, stored_calibrations
from uad.application.judging import Judge, Judged
from uad.data.reading.checks import check_folder, data_hash
from uad.data.reading.facts import facts_of
from uad.data.reading.likeness import Likeness
from uad.data.reading.opening import open_slices, patients_of
from uad.data.reading.settings import Reading
from uad.errors import InputError, input_error

# A percentile among fewer has steps of 5 % and more.
FEW_PATIENTS = 20


@dataclass(frozen=True)
class Healthy:
    """Where calibrations lie and what they are measured on.

    folder: of healthy slices, None for what was measured before; own, of_model: the paths in --out and beside the
    model, see uad.application.calibration; likeness: of the images that the model was trained on, None of a model that
    stored none.
    """

    folder: Path | None
    own: Mapping[float, Path]
    of_model: Mapping[float, Path]
    likeness: Likeness | None

    def calibrate(self, trained_on: Reading, judged_by: Reading, workers: int, judge: Judge) -> None:
        """Have calibrations in --out, unless there is nothing to measure on: those of `folder`, else of a former
        command in --out, else those beside the model. The first that are measured become the model's, which stay.

        trained_on, judged_by: how images were read in training, and are now. InputError for images that cannot be used
        and for those of the training.
        """
        wanted = data_hash(self.folder) if self.folder else None
        stored = [(paths, stored_calibrations(paths).slices) for paths in (self.own, self.of_model)]
        known = [paths for paths, found in stored if found and wanted in (None, found.data_hash)]
        if not known and not self.folder:
            return
        if known:
            keep(known[0], self.own)
        else:
            self._measure(wanted, trained_on, judged_by, workers, judge)
        found = self.found.slices
        print(f"Thresholds and percentiles are those of {found}")
        if len(found.scores) < FEW_PATIENTS:
            few = f"{len(found.scores)} healthy patients say little of what is usual"
            print(f"{few}: name a folder of more by --healthy.")
        if not known and stored[1][1]:
            out, model = self.own[0.0].parent.parent, self.of_model[0.0].parent
            print(f"They hold in {out} only: the model has those of {stored[1][1]}, see {model}")
        elif not known:
            self._keep_beside_model()

    @property
    def found(self) -> Calibrations:
        """Those in --out."""
        return stored_calibrations(self.own)

    def _measure(self, content: str, trained_on: Reading, judged_by: Reading, workers: int, judge: Judge) -> None:
        """Judge healthy slices and keep what is normal; content: the hash of the folder."""
        how = (judged_by.n_channels, judged_by.img_size, judged_by.normalise)
        patients = patients_of(self.folder, None)
        print(check_folder(self.folder, *how, workers=workers, healthy=True, patients=patients))
        if self.likeness and facts_of(open_slices(self.folder, trained_on), trained_on).likeness == self.likeness:
            found, expected = "the images that the model was trained on", "healthy slices of other patients"
            raise input_error(self.folder, found, f"{expected}: on its own images a model finds less", "name others")

        def judged(images: np.ndarray, names: list[str], affines: list[np.ndarray]) -> Judged:
            with tqdm(total=len(images), desc="calibrating", unit="slice") as bar:
                return judge(images, names, affines, bar.update)

        calibrate(open_slices(self.folder, judged_by), content, judged, self.own)

    def _keep_beside_model(self) -> None:
        """Have later commands find the calibrations; a model in a folder that is read only has none."""
        try:
            keep(self.own, self.of_model)
        except InputError as error:
            print(f"They are not kept with the model: {error.problems[0].where}, {error.problems[0].found}")
