"""Random numbers that losses need, drawn where images are read.

Drawn on the host they are the same for every device, and they reach a CUDA device with the batch: there a generator a
image would cost the host more time than the numbers cost the device.
"""

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset


class WithDraws(Dataset):
    """A training data set whose items bring `draw(position)`, tensors by name.

    A key is (index, position), as StepBatches gives them: what is drawn is a function of the place in the stream alone.
    draw must be picklable where workers are not forked.
    """

    def __init__(self, dataset: Dataset, draw: Callable[[int], dict[str, Tensor]]):
        self.dataset, self.draw = dataset, draw

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict:
        _, position = key
        return self.dataset[key] | self.draw(position)
