"""How slices lie: to where in the patient their rows and columns run, and turning them from one way to another."""

from typing import NamedTuple

import nibabel as nib
import numpy as np

from uad.data.reading.geometry import CANONICAL

# Down a column of an axial picture it goes to the back, along a row to the patient's left.
PICTURE = "PL"
# The slices of a volume in the orientation of uad.data.reading.geometry.
OF_VOLUMES = CANONICAL[:2]
_AXES = {"L": 0, "R": 0, "A": 1, "P": 1, "I": 2, "S": 2}


def lies(affine: np.ndarray) -> str:
    """To where a slice's H and W run, in the nearest directions of the patient, such as "PL", by its affine (4, 4)."""
    return "".join(code or "?" for code in nib.orientations.aff2axcodes(affine)[:2])


class Turn(NamedTuple):
    """From slices whose H and W run to `start` to those whose H and W run to `end`: an exchange of axes, and flips."""

    start: str
    end: str

    @property
    def possible(self) -> bool:
        """Whether both lie in the same plane of the patient."""
        planes = [sorted(_AXES.get(code, -1) for code in each) for each in self]
        return planes[0] == planes[1] and planes[0][0] >= 0 and planes[0][0] != planes[0][1]

    @property
    def _exchanges(self) -> bool:
        return _AXES[self.start[0]] != _AXES[self.end[0]]

    @property
    def _flipped(self) -> list[int]:
        """The axes, of -2 and -1, that run the other way once they are exchanged."""
        start = self.start[::-1] if self._exchanges else self.start
        return [axis for axis in (-2, -1) if start[axis] != self.end[axis]]

    def there(self, values: np.ndarray) -> np.ndarray:
        """(..., H, W) turned."""
        exchanged = values.swapaxes(-2, -1) if self._exchanges else values
        return np.ascontiguousarray(np.flip(exchanged, self._flipped))

    def back(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `there`."""
        flipped = np.flip(values, self._flipped)
        return np.ascontiguousarray(flipped.swapaxes(-2, -1) if self._exchanges else flipped)

    def affine(self, affine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """The affine (4, 4) of a turned slice for that of a slice; shape: (H, W) of the turned one."""
        to_start = np.eye(4)
        for axis in self._flipped:
            to_start[axis + 2, axis + 2], to_start[axis + 2, 3] = -1.0, shape[axis] - 1.0
        if self._exchanges:
            to_start = to_start[[1, 0, 2, 3]]
        return affine @ to_start
