"""The front door for Python: a trained model judges arrays, slices and volumes as scripts/detect.py does.

    from uad import load_detector
    detector = load_detector("brain-lgg")
    answer = detector(image)

This is the one file of `uad` that knows a method; `uad` imports it when it is asked for `load_detector`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bernoulli_diffusion.method import Detection, MaskedBernoulliDiffusion, detector, is_number, is_whole, plain
from bernoulli_diffusion.model import ModelSource, TrainedDiffusion, default_log_dir, load_model
from binary_autoencoder.checkpoint import AutoencoderSource, TrainedAutoencoder, load_autoencoder
from uad.application.answer import Answer, answer_of, together
from uad.application.calibration import RATES, Calibration, Calibrations, calibration_paths, stored_calibrations
from uad.application.inputs import Item, find_items
from uad.application.judging import Judge, Judged
from uad.application.models import model_folder, named_by_model
from uad.application.opening import Chain, Opened, chain_of, open_array, open_item, slice_name
from uad.configuration import check_values
from uad.data.reading.decoding import cannot_open
from uad.data.reading.likeness import differences, differences_of_each, differences_of_many, likeness_of
from uad.data.reading.settings import Reading
from uad.distributed import choose_device
from uad.errors import InputError, input_error
from uad.neighbours import SIGMA
from uad.precision import keep_float32_exact, precision_seconds, resolve_amp
from uad.scores import ImageScore, check_polarity
from uad.suited import suited_to

UNKNOWN_TRAINING = "the model stores nothing of its training images: whether these are like them was not looked at"


@dataclass(frozen=True)
class TrainedPair:
    """A stage-1 run and its stage 2; folder: of the former, where calibrations are kept, too."""

    folder: Path
    autoencoder: TrainedAutoencoder
    model: TrainedDiffusion

    @property
    def image_score(self) -> ImageScore:
        """How a map scores its image."""
        return suited_to(self.autoencoder.reading.dataset).image_score

    def detection(self, chosen: Detection) -> Detection:
        """How it detects; InputError for what these networks cannot."""
        completed = chosen.completed(self.model, self.autoencoder.facts.contrast)
        check_polarity(completed.polarity, completed.score, self.autoencoder.reading.n_channels)
        return completed

    def reading(self, detection: Detection) -> Reading:
        """How the images that it judges are read; InputError as matching."""
        return self.autoencoder.judging(detection.match_contrast)

    def settings(self, detection: Detection, seed: int) -> dict:
        """What maps and scores depend on, apart from the images: the key of a calibration."""
        hashes = {"autoencoder": self.autoencoder.weights_hash, "model": self.model.weights_hash}
        return {**asdict(detection), **hashes, "seed": seed, "image_score": str(self.image_score)}

    def judge(
        self, method: MaskedBernoulliDiffusion, device: torch.device, batch_size: int, seed: int, detection: Detection
    ) -> Judge:
        """The judge of its images; method: the pair's detector with these settings of detection."""
        return Judge(method, device, batch_size, seed, detection.compare_sides, self.image_score)

    def calibration_paths(self, settings: Mapping, neighbours: float) -> dict[float, Path]:
        """Where its calibrations with these settings lie, see uad.application.calibration."""
        return calibration_paths(self.folder, settings, neighbours)


def load_pair(model: str | Path, paths: Sequence[str | Path] = ()) -> TrainedPair:
    """The pair in a folder, or that of a shipped model's name; paths: of other checkpoints of stage 2 than the newest
    in it. InputError where one is missing or damaged.
    """
    folder = model_folder(model)
    try:
        autoencoder = load_autoencoder(AutoencoderSource(str(folder)))
        source = ModelSource(paths, default_log_dir(folder))
        model = load_model(source, autoencoder.network.code_shape, autoencoder.weights_hash)
    except InputError as error:
        raise named_by_model(error) from error
    return TrainedPair(folder, autoencoder, model)


@dataclass(frozen=True)
class Detector:
    """Judges images, slices and volumes; `load_detector` makes one.

    neighbours: reach in mm over which maps are averaged across the slices of a scan; rate: share of healthy pixels that
    masks may mark, one of uad.application.calibration.RATES; median: side of a median filter of maps, 0 for none;
    resampling: whether a patient's volumes on several grids are brought onto that of the first channel.
    """

    pair: TrainedPair
    chain: Chain
    judge: Judge
    calibrations: Calibrations
    neighbours: float
    rate: float
    median: int = 0
    resampling: bool = False

    def __call__(
        self,
        image: "np.ndarray | torch.Tensor | str | Path | Sequence[str | Path] | Mapping[str, str | Path]",
        names: Sequence[str] | None = None,
        distance: float | None = None,
    ) -> Answer:
        """Map, healthy counterpart, score and, where the model is calibrated, mask of what `image` holds.

        image: an array or a tensor, one image (C, H, W) or several (N, C, H, W), raw intensities lying as a picture
        does, whatever the model was trained on (H runs to the patient's back, W to the left; see
        uad.data.reading.turning), of any size and scale: it is normalised as the training images were; or the file of a
        slice or a volume, the folder of a patient or of a DICOM series, or the files of one patient, by the contrasts
        in their names or as a mapping from channel to file. What comes back is NumPy, on the grid of the input; see
        Answer.
        names: of the images (N), which key their randomness: an image gets the map of a file of its name; 0, 1, ...
        otherwise. distance: mm from one image to the next where they are the slices of one scan, in order, over which
        maps are then averaged.
        Raises InputError for what cannot be judged.
        """
        files, channels = _files_of(image)
        if files or channels:
            given = [word for word, value in (("names", names), ("distance", distance)) if value is not None]
            if given:
                raise input_error(
                    ", ".join(given), "given for a file", "nothing: a file says it itself", "leave it out"
                )
            return self._of_files(files, channels)
        return self._of_arrays(_array_of(image), names, distance)

    def open(self, item: Item) -> Opened:
        """An input as the model sees it; InputError where it cannot be used."""
        return open_item(item, self.chain, self.resampling)

    def judged(
        self,
        items: Sequence[Item],
        opened: Sequence[Opened],
        advance: Callable[[int], object] = lambda count: None,
    ) -> list[Judged]:
        """What each of the inputs is judged as, all their slices in common batches; advance: see Judge."""
        pairs = list(zip(items, opened, strict=True))
        images = np.concatenate([each.images for each in opened])
        names = [slice_name(item, level) for item, each in pairs for level in each.levels]
        affines = [each.plane_affine for each in opened for _ in each.levels]
        judged, found, start = self.judge(images, names, affines, advance), [], 0
        for item, each in pairs:
            part = judged.part(start, start + len(each.images))
            places = [level * each.distance for level in each.levels]
            found.append(part.across_slices([item.name] * len(places), places, self.neighbours))
            start += len(each.images)
        return found

    def answer(self, item: Item, opened: Opened, judged: Judged, notices: Sequence[str]) -> Answer:
        """What is said of an input that was judged."""
        return answer_of(opened, judged, self.calibration(item), self.rate, self.median, notices)

    def calibration(self, item: Item) -> Calibration | None:
        """What is normal for an input of its kind, None where nothing was calibrated."""
        return self.calibrations.of(item.scan is not None)

    def unlike(self, opened: Sequence[Opened]) -> list[list[str]]:
        """What tells each input from the training images: a scan by its slices, a single slice by itself and by what
        those beside it show together.
        """
        known, channels = self.pair.autoencoder.facts.likeness, self.chain.names
        if known is None:
            return [[UNKNOWN_TRAINING] for _ in opened]
        pairs = [list(zip(each.images, each.foregrounds, strict=True)) for each in opened]
        if len(opened) == 1:
            return [differences(known, likeness_of(pairs[0]), channels)]
        every = likeness_of(pair for of_it in pairs for pair in of_it)
        shared = [f"{said} ({len(opened)} images together)" for said in differences_of_many(known, every, channels)]
        return [[*differences_of_each(known, likeness_of(of_it), channels), *shared] for of_it in pairs]

    def _of_files(self, paths: Sequence[Path], channels: Mapping[str, Path]) -> Answer:
        first = next(iter([*paths, *channels.values()]))
        try:
            items, _ = find_items(paths, channels, self.chain.channels, self.chain.reading.n_channels)
        except OSError as error:
            raise cannot_open(first, error) from error
        if len(items) != 1:
            named = ", ".join(item.name for item in items[:5]) + (", ..." if len(items) > 5 else "")
            raise input_error(first, f"{len(items)} inputs: {named}", "one", "call the detector once for each")
        opened = self.open(items[0])
        return self.answer(items[0], opened, *self.judged(items, [opened]), *self.unlike([opened]))

    def _of_arrays(self, array: np.ndarray, names: Sequence[str] | None, distance: float | None) -> Answer:
        several = array.ndim == 4
        images = array if several else array[None]
        names = _names_of(names, len(images))
        if distance is not None:
            distance = plain(distance)
            right = is_number(distance) and 0 < distance < math.inf
            check_values([("distance", distance, "millimetres, finite and above 0", right)])
        items = [Item(name) for name in names]
        opened, problems = [], []
        for each, name in zip(images, names, strict=True):
            try:
                opened.append(open_array(each, name, self.chain))
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)
        judged = self.judged(items, opened)
        if distance is not None:
            places = [number * distance for number in range(len(judged))]
            maps = np.concatenate([each.maps for each in judged])
            whole = judged[0]._replace(maps=maps).across_slices([""] * len(places), places, self.neighbours)
            judged = [each._replace(maps=one[None]) for each, one in zip(judged, whole.maps, strict=True)]
        calibration = self.calibrations.of(distance is not None)
        answers = [
            answer_of(each, of_it, calibration, self.rate, self.median, unlike)
            for each, of_it, unlike in zip(opened, judged, self.unlike(opened), strict=True)
        ]
        return together(answers, names) if several else answers[0]


def load_detector(
    model: str | Path,
    device: str | torch.device = "auto",
    amp: str = "off",
    batch_size: int = 8,
    seed: int = 0,
    false_positives: float = 0.01,
    neighbours: float = SIGMA,
    preset: str = "recommended",
    model_path: str | Path | Sequence[str | Path] = (),
    **detection,
) -> Detector:
    """The detector of a trained model, as scripts/detect.py with flags of the same names has it.

    model: the folder of a stage-1 run with its stage 2 inside, or the name of a shipped model; device: `auto` (CUDA
    where there is a device), `cpu`, or a CUDA device of torch's (there float32 is kept exact in the whole process);
    amp: `off`, `bf16`, `fp16` or `auto`, which measures; batch_size: slices at a time; seed: of all randomness;
    false_positives: share of healthy pixels that masks may mark, one of uad.application.calibration.RATES; neighbours:
    see Detector; preset: `recommended`, `fast` or `paper`; model_path: a checkpoint of stage 2 where it is not the
    newest in the folder, or several whose flip probabilities are averaged; detection: fields of
    bernoulli_diffusion.method.Detection that differ from the preset, such as noise_level=20.
    Raises InputError for a model that is missing or damaged and for settings that mean nothing.
    """
    paths = model_path if isinstance(model_path, (list, tuple)) else [model_path]
    batch_size, seed, neighbours = plain(batch_size), plain(seed), plain(neighbours)
    reach = is_number(neighbours) and 0 <= neighbours < math.inf
    check_values(
        [
            ("--model", model, "a folder or a name", isinstance(model, (str, Path))),
            ("--false_positives", false_positives, f"one of {', '.join(map(str, RATES))}", false_positives in RATES),
            ("--batch_size", batch_size, "1 or more", is_whole(batch_size) and batch_size >= 1),
            ("--seed", seed, "a whole number", is_whole(seed)),
            ("--neighbours", neighbours, "0 or more", reach),
            ("--model_path", model_path, "a file, or a list of files", all(isinstance(p, (str, Path)) for p in paths)),
        ]
    )
    where = _device_of(device)
    if where.type == "cuda":
        keep_float32_exact()
    pair = load_pair(model, paths)
    chosen = pair.detection(Detection.preset(preset, **detection))
    networks = (pair.autoencoder.network, pair.model.network)
    precision = resolve_amp(amp, where, lambda: precision_seconds(networks, training=False))
    method = detector(pair.autoencoder.network, pair.model, chosen, where, precision)
    kept = stored_calibrations(pair.calibration_paths(pair.settings(chosen, seed), neighbours))
    chain = chain_of(pair.reading(chosen), pair.autoencoder.facts, None, False)
    judge = pair.judge(method, where, batch_size, seed, chosen)
    return Detector(pair, chain, judge, kept, neighbours, false_positives)


def _files_of(image) -> tuple[list[Path], dict[str, Path]]:
    """The files that `image` names, in a row or by channel; both empty where it is no name of a file."""
    if isinstance(image, Mapping):
        if not image or not all(isinstance(each, (str, Path)) for pair in image.items() for each in pair):
            raise input_error("image", repr(image)[:80], "channel -> name of a file", "correct it")
        return [], {str(channel): Path(file) for channel, file in image.items()}
    several = [image] if isinstance(image, (str, Path)) else image
    if not isinstance(several, (list, tuple)) or not several:
        return [], {}
    if not all(isinstance(each, (str, Path)) for each in several):
        return [], {}
    if "" in several:
        raise input_error("image", "an empty text", "the name of a file or a folder", "correct it")
    return [Path(each) for each in several], {}


def _names_of(names: Sequence[str] | None, count: int) -> list[str]:
    """One for each of `count` images; InputError where they are not that."""
    if names is None:
        names = [str(number) for number in range(count)]
    expected = "a list of texts, one for each image"
    if isinstance(names, (str, bytes)) or not isinstance(names, (Sequence, np.ndarray)):
        raise input_error("names", repr(names)[:80], expected, "put them into a list")
    if not all(isinstance(name, str) for name in names):
        raise input_error("names", repr(list(names))[:80], expected, "make texts of them")
    if len(names) != count:
        raise input_error("names", f"{len(names)} for {count} images", "one for each", "correct them")
    return [str(name) for name in names]  # randomness is keyed by plain texts


def _device_of(device: str | torch.device) -> torch.device:
    """`auto`, `cpu`, `cuda` or any CPU or CUDA device of torch's; InputError for others and what is not there."""
    if device in ("auto", "cpu", "cuda"):
        return choose_device(device, 0)
    expected = "auto, cpu, cuda, or a CUDA device by its number, such as cuda:0"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise input_error("--device", repr(device), expected, "correct it") from error
    there = torch.cuda.device_count()
    if found.type != "cpu" and not (found.type == "cuda" and (found.index or 0) < there):
        raise input_error("--device", f"{device}, with {there} CUDA devices here", expected, "choose another one")
    return found


def _array_of(image) -> np.ndarray:
    """What was passed as an array of (C, H, W) or (N, C, H, W); InputError for other kinds and numbers of axes."""
    expected = "(C, H, W), (N, C, H, W), or the name of a file"
    if isinstance(image, np.ma.MaskedArray):
        found = "a masked array, whose mask no network knows"
        raise input_error("image", found, expected, "give what lies outside a value of its own, as .filled(0) does")
    try:
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = image.float() if image.is_floating_point() else image
        array = np.asarray(image)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several sizes, tensors without a dense array
        found = f"{type(image).__name__} that is no array ({error})"
        raise input_error("image", found, expected, "make one array of it") from error
    found = f"{type(image).__name__} of shape {array.shape}"
    if array.dtype.kind == "O":
        raise input_error("image", f"{type(image).__name__}, which holds no numbers", expected, "pass an array of them")
    if not array.size:
        raise input_error("image", f"{found}, which is empty", expected, "pass at least one image")
    if array.ndim not in (3, 4):
        raise input_error("image", found, expected, "add or remove axes")
    return array
