"""Thresholds from healthy images: nothing is computed twice, and any division of the images gives the same."""

import json

import pytest
import torch

from baselines.calibration import calibrate_on_healthy
from uad.distributed import World


class Slices(torch.utils.data.Dataset):
    """Images of 2 x 2 pixels, each filled with its number."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        image = torch.full((1, 2, 2), float(index))
        return {"index": index, "image": image, "name": f"{index}", "patient": "p", "affine": torch.eye(4)}


class Detector:
    """Its threshold is the sum of intensity times number; it counts the images that it saw."""

    def __init__(self):
        self.seen, self.fails = 0, False

    def healthy_values(self, images, numbers):
        self.seen += len(images)
        assert images[:, 0, 0, 0].tolist() == list(numbers)
        return images[:, 0].numpy()

    def take_threshold(self, values):
        if self.fails:
            raise KeyboardInterrupt
        return {"threshold": float(values.sum()), "images": len(values)}


ALONE = World(0, 1, torch.device("cpu"))


def test_an_interrupted_calibration_goes_on_and_a_finished_one_is_kept(tmp_path):
    detector, path = Detector(), tmp_path / "healthy.json"
    detector.fails = True
    with pytest.raises(KeyboardInterrupt):
        calibrate_on_healthy(detector, Slices(5), path, ALONE, 2, 0)
    detector.fails = False
    for _ in range(2):
        calibrate_on_healthy(detector, Slices(5), path, ALONE, 2, 0)
    assert detector.seen == 5
    assert json.loads(path.read_text()) == {"threshold": 40.0, "images": 5}
    assert not list(tmp_path.glob("*.npy"))


class InTurn(World):
    """A process of several that run one after the other, the main one last: nothing has to wait."""

    def any(self, flag: bool) -> bool:
        return flag

    def barrier(self) -> None:
        pass

    def on_main(self, action):
        return action() if self.is_main else None


@pytest.mark.parametrize(("count", "size"), [(7, 3), (2, 3)])
def test_any_number_of_processes_gives_the_same(tmp_path, count, size):
    detectors = [Detector() for _ in range(size)]
    for rank in reversed(range(size)):
        world = InTurn(rank, size, torch.device("cpu"))
        calibrate_on_healthy(detectors[rank], Slices(count), tmp_path / "healthy.json", world, 2, 0)
    found = json.loads((tmp_path / "healthy.json").read_text())
    assert found == {"threshold": 4.0 * sum(range(count)), "images": count}
    assert sum(detector.seen for detector in detectors) == count and not list(tmp_path.glob("*.npy"))
