"""Pictures that a training saves of what it has learned so far."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from uad.files import written_whole


def save_rows(path: Path, columns: Sequence[Tensor]) -> None:
    """Write a grid of grey pictures, whole or not at all, a row for each image.

    columns: batches (N, H, W); 0 is black, 1 white, what lies beyond is shown as the nearer of them.
    """
    # Here: it takes two seconds to import, as long as all else that a command needs before it reads its folders.
    from torchvision.utils import save_image

    rows = torch.stack([column.float() for column in columns], dim=1)
    with written_whole(path) as temporary:
        save_image(rows.flatten(0, 1)[:, None].cpu(), temporary, nrow=len(columns), padding=1)
