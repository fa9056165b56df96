"""The best checkpoint of a run: that of the highest AP among those that were judged while it trained.

best.json names it, with its numbers and what it was judged on; best_<step>.pt holds its EMA weights. Removing old
checkpoints leaves both alone, because they are called otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from uad.checkpoints import save_checkpoint
from uad.errors import input_error
from uad.files import read_json, write_json

# The numbers of an evaluation, by their names in a log.
AP, IMAGE_AUROC = "val_ap", "val_image_auroc"
BEST_STEP, BEST_AP = "val_best_step", "val_best_ap"
NAME = "best.json"
PATTERN = "best_{step:06d}.pt"


class BestCheckpoint:
    """Keeps the best checkpoint of a run, in its folder.

    judged_on: what checkpoints are judged on, plain values, with `hash`, equal for what can be compared. new: the run
    has no checkpoints, so that what an earlier one left here is removed.
    Raises InputError where the folder's best was judged on something else, and for a damaged best.json.
    """

    def __init__(self, folder: Path, judged_on: Mapping, new: bool):
        self.folder, self.judged_on = folder, judged_on
        self.path = folder / NAME
        if new:
            self.path.unlink(missing_ok=True)
        self.found = read_json(self.path) if self.path.exists() else None
        if self.found and self.found["judged_on"]["hash"] != judged_on["hash"]:
            there = self.found["judged_on"]
            raise input_error(
                self.path,
                f"a best checkpoint that was judged on {there['images']} images of {there['folder']}, hash "
                f"{there['hash']}",
                f"{judged_on['images']} images of {judged_on['folder']}, hash {judged_on['hash']}: numbers of other "
                "images, or of another detection, cannot be compared",
                "pass --val_dir as it was, or train into another --log_dir",
            )

    def consider(
        self,
        step: int,
        numbers: Mapping[str, float],
        earlier: Sequence[tuple[int, float]],
        checkpoint: Callable[[], dict],
    ) -> dict[str, float]:
        """Keep the checkpoint of a step where its AP is higher than any before; returns step and AP of the best so far
        by BEST_STEP and BEST_AP, nothing before there is one.

        numbers: as uad.evaluation.progress.separation gives them, without an AP the checkpoint is not considered;
        earlier: the steps before and their APs. A run that was killed may have kept a later step already, by which it
        comes again: that does not count.
        """
        points = [*earlier, *([(step, numbers[AP])] if AP in numbers else [])]
        if self.found and self.found["step"] < step:
            points.append((self.found["step"], self.found["ap"]))
        if not points:
            return {}
        best, ap = max(points, key=lambda point: (point[1], -point[0]))
        if best == step:
            self._keep(step, numbers, checkpoint())
        return {BEST_STEP: best, BEST_AP: ap}

    def _keep(self, step: int, numbers: Mapping[str, float], checkpoint: dict) -> None:
        name = PATTERN.format(step=step)
        save_checkpoint(self.folder / name, checkpoint)
        self.found = {
            "step": step,
            "ap": numbers[AP],
            "image_auroc": numbers.get(IMAGE_AUROC),
            "checkpoint": name,
            "judged_on": dict(self.judged_on),
        }
        write_json(self.path, self.found)
        for path in self.folder.glob("best_*.pt"):
            if path.name != name:
                path.unlink()


def best_in_words(folder: Path) -> str | None:
    """Which checkpoint of a run is the best, how to use it and what its numbers are worth; None where none is known."""
    if not (folder / NAME).exists():
        return None
    found = read_json(folder / NAME)
    judged_on = found["judged_on"]
    auroc = "n/a" if found["image_auroc"] is None else f"{found['image_auroc']:.3f}"
    lines = [
        f"Best by AP: step {found['step']}, AP {found['ap']:.3f}, image AUROC {auroc}, on {judged_on['words']}",
        f"Detection takes it with --model_path {folder / found['checkpoint']}",
    ]
    return "\n".join(lines + ([chosen_by_labels(judged_on)] if judged_on["real_labels"] else []))


def chosen_by_labels(judged_on: Mapping) -> str:
    """What to say of a checkpoint that was chosen by real labels."""
    return f"It was chosen by the labels of {judged_on['folder']}: its results on patients of this folder are too good."
