"""Names in figures are shown as they are written, also with signs that begin a formula."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uad.data.preparing.contact_sheet import write_contact_sheet
from uad.data.reading.formats import write_slice
from uad.evaluation.progress import progress_figure
from uad.lettering import as_written


def drawn(text: str, **more) -> np.ndarray:
    figure = Figure(figsize=(3, 1))
    figure.text(0.1, 0.4, text, **more)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("name", ["cost$_$5", "$", "$a$ $b", r"a\$b$", "plain"])
def test_a_name_is_shown_as_it_is_written(name):
    np.testing.assert_array_equal(drawn(as_written(name)), drawn(name, parse_math=False))


def test_figures_of_folders_with_dollar_signs_are_drawn(tmp_path):
    FigureCanvasAgg(progress_figure({}, 1, "4 images of a$_$b")).draw()
    file = tmp_path / "train$_$1" / "p$_$1.nii.gz"
    write_slice(file, np.random.default_rng(0).random((8, 8), np.float32), np.eye(4))
    write_contact_sheet(tmp_path / "sheet.png", [(file, "p$_$1", 9)], ["t$_$1"], Path("nowhere"))
    assert (tmp_path / "sheet.png").stat().st_size > 0
