"""The trivial competitors: closed forms, and the command that runs them."""

import json
import shutil

import numpy as np
import pytest
import torch
from commands import SMALL_STAGE1, STAGE1, module, run
from sklearn.metrics import roc_auc_score

from baselines.trivial import AutoencoderAlone, PcaResidual, RawIntensity, equalised, fit_pca, load_pca, save_pca
from binary_autoencoder.networks import BinaryAutoEncoder
from uad.checkpoints import load_checkpoint, save_checkpoint
from uad.data.reading.checks import data_hash
from uad.data.reading.formats import write_slice
from uad.data.reading.settings import Reading
from uad.errors import InputError
from uad.results import ResultFolder

READING = Reading("custom", 1, 8, "joint")
SIZE = 32
SAMPLE = "scripts/sample_trivial.py"
AFFINE = np.diag([-2.0, -2.0, 1.0, 1.0])


class Images(torch.utils.data.Dataset):
    """Images (M, C, S, S) as a data set."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}


def test_intensity_is_its_own_map():
    images = torch.rand(2, 3, SIZE, SIZE)
    torch.testing.assert_close(RawIntensity().reconstruct(images, []).anomaly_map, images.sum(1))
    assert torch.equal(RawIntensity(1).reconstruct(images, []).anomaly_map, images[:, 1])
    smooth = RawIntensity(1, score="smooth").reconstruct(images, []).anomaly_map
    assert smooth.std() < 0.5 * images[:, 1].std()
    balanced = RawIntensity(1, score="balanced_smooth").reconstruct(images, []).anomaly_map
    torch.testing.assert_close(balanced, smooth / smooth.mean((1, 2), keepdim=True).sqrt())


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("intensity", "--components 3 --model_path m.pt"),
        ("pca", "--interior"),
        ("autoencoder", "--train_dir d --channel 0"),
        ("intensity", "--train_dir d"),
    ],
)
def test_flags_of_another_competitor_are_refused(method, more):
    script, words = module(SAMPLE), f"--method {method} --data_dir d {more}".split()
    with pytest.raises(InputError) as caught:
        script.request_of(script.get_args_parser().parse_args(words))
    assert {problem.where for problem in caught.value.problems} == {word for word in more.split() if word[:2] == "--"}


def test_equalisation_gives_uniform_ranks_of_the_foreground():
    """Any monotone change of the intensities is undone, and the background stays black."""
    # Values that all differ: equal ones would share a rank.
    images = (torch.stack([torch.randperm(SIZE**2) for _ in range(4)]).view(2, 2, SIZE, SIZE) + 1) / SIZE**2
    images[:, :, :8] = 0
    result = equalised(images)
    assert not result[:, :, :8].any()
    values = result[:, :, 8:].flatten(2).sort().values
    count = values.shape[-1]
    torch.testing.assert_close(values, (torch.arange(1, count + 1) / count).expand_as(values))
    assert torch.equal(equalised(images**3), result)
    assert not equalised(torch.zeros(1, 1, SIZE, SIZE)).any()


def test_pca_residual_closed_form():
    """The components are those of a singular value decomposition, and the residual is (I - W^T W)(x - mean)."""
    images = torch.rand(12, 2, 8, 8, dtype=torch.float32)
    mean, components = fit_pca(Images(images), 5)
    flat = images.flatten(1).double()
    _, _, right = np.linalg.svd(flat.numpy() - flat.numpy().mean(0), full_matrices=False)
    projector = right[:5].T @ right[:5]
    np.testing.assert_allclose(components.T @ components, projector, atol=1e-4)
    unseen = torch.rand(3, 2, 8, 8)
    result = PcaResidual(mean, components).reconstruct(unseen, [])
    centred = unseen.flatten(1).numpy() - mean.flatten().numpy()
    residual = centred - centred @ projector
    np.testing.assert_allclose((unseen - result.image).flatten(1), residual, atol=1e-4)
    assert result.anomaly_map.shape == (3, 8, 8)
    # All eleven directions of twelve images reproduce those images.
    everything = PcaResidual(*fit_pca(Images(images), 11)).reconstruct(images, [])
    torch.testing.assert_close(everything.image, images, atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=r"1\.\.11"):
        fit_pca(Images(images), 12)


def test_pca_is_kept_as_plain_tensors(tmp_path):
    mean, components = fit_pca(Images(torch.rand(4, 1, 8, 8)), 2)
    save_pca(tmp_path / "pca.pt", mean, components, READING, {"data_hash": "1"})
    found = load_pca(tmp_path / "pca.pt")
    assert torch.equal(found[0], mean) and torch.equal(found[1], components)
    assert found[2:] == (READING, {"data_hash": "1"})
    torch.save({"kind": "bld"}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="principal components"):
        load_pca(tmp_path / "other.pt")


def test_maps_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    images = torch.rand(4, 2, SIZE, SIZE)
    network = BinaryAutoEncoder(SIZE, 2, 8, (1, 2), 1, emb_dim=16, codebook_size=8, norm_first=True).eval()
    methods = (
        RawIntensity(equalise=True, interior=True),
        PcaResidual(*fit_pca(Images(torch.rand(9, 2, SIZE, SIZE)), 4)),
        AutoencoderAlone(network),
    )
    for method in methods:
        together = method.reconstruct(images, []).anomaly_map
        alone = torch.cat([method.reconstruct(images[i : i + 1], []).anomaly_map for i in range(4)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train_healthy and val_diseased with labels: smooth discs, bright squares as lesions."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2 + 0.5
    for folder, lesion in (("train_healthy", False), ("val_diseased", True)):
        for patient in range(16):
            image = (np.hypot(x, y) < rng.uniform(12, 14)) * (0.5 + rng.normal(0, 0.01, (SIZE, SIZE)))
            mask = np.zeros((SIZE, SIZE), np.uint8)
            if lesion:
                row, column = rng.integers(10, 16, 2)
                mask[row : row + 6, column : column + 6] = 1
            name = f"p{patient + 100 * lesion}_000.nii.gz"
            write_slice(root / folder / name, (image + 0.4 * mask).clip(0, 1).astype(np.float32)[None], AFFINE)
            if lesion:
                write_slice(root / f"{folder}_labels" / name, mask, AFFINE)
    return root


def auroc(folder) -> float:
    results = [ResultFolder(folder).load(name) for name in ResultFolder(folder).names]
    labels, maps = (np.concatenate([part.ravel() for part in parts]) for parts in zip(
        *((result.label, result.anomaly_map) for result in results), strict=True))  # fmt: skip
    return roc_auc_score(labels, maps)


def test_every_competitor_finds_a_planted_bright_lesion(data, tmp_path):
    read = f"--n_channels 1 --img_size {SIZE} --normalise none --workers 0 --device cpu"
    log = tmp_path / "ae"
    run(
        STAGE1, f"{SMALL_STAGE1} {read} --data_dir {data / 'train_healthy'} --log_dir {log} --train_steps 120 --lr 3e-3"
    )
    model = f"--train_dir {data / 'train_healthy'} --model_path {tmp_path / 'pca.pt'} --components 6"
    diseased = f"--data_dir {data / 'val_diseased'} --workers 0 --device cpu"
    for method, words, name in (
        ("intensity", f"{read} --channel 0 --equalise --interior", "raw intensity: channel 0, equalised, interior"),
        ("pca", f"{read} {model}", "PCA residual"),
        ("autoencoder", f"--ae_load_dir {log}", "binarizing autoencoder"),
    ):
        out = tmp_path / method
        run(SAMPLE, f"--method {method} {diseased} {words} --out_dir {out}")
        info = json.loads((out / "run.json").read_text())
        assert info["method"] == name and info["parameters"] >= 0
        assert auroc(out) > 0.9, method
    # The components are kept: they need no training folder, and their settings hold.
    run(
        SAMPLE,
        f"--method pca {diseased} --n_channels 1 --model_path {tmp_path / 'pca.pt'} --out_dir {tmp_path / 'pca'}",
    )
    with pytest.raises(InputError, match="checkpoint has"):
        run(SAMPLE, f"--method pca {diseased} --img_size 64 --model_path {tmp_path / 'pca.pt'}")


def test_components_are_those_of_the_images_and_the_number_that_are_stated(data, tmp_path, capsys):
    """What is said beside a file that exists holds, or is refused."""
    train, path = data / "train_healthy", tmp_path / "pca.pt"
    read = f"--n_channels 1 --img_size {SIZE} --normalise none --workers 0 --device cpu"
    words = f"--method pca --data_dir {data / 'val_diseased'} {read} --model_path {path}"
    run(SAMPLE, f"{words} --train_dir {train} --components 3 --out_dir {tmp_path / 'out'}")
    told = json.loads((tmp_path / "out" / "run.json").read_text())["model"]
    assert told["components"] == 3
    assert told["fitted_to"] == {"data_dir": str(train), "num_samples": 0, "data_hash": data_hash(train)}
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for image in sorted(train.iterdir())[:9]:
        (fewer / image.name).symlink_to(image)
    for flags, message in (
        (f"--train_dir {fewer}", "(?s)--train_dir.*fewer, whose images are others.*fitted anew"),
        (f"--train_dir {tmp_path / 'nowhere'}", "no such folder"),
        ("--components 2", "(?s)--components.*2, while the checkpoint has 3"),
    ):
        with pytest.raises(InputError, match=message):
            run(SAMPLE, f"{words} {flags}")
    content = load_checkpoint(path)
    del content["config"]["fitted_to"]  # as earlier versions wrote it
    save_checkpoint(path, content)
    run(SAMPLE, f"{words} --train_dir {fewer} --components 3 --out_dir {tmp_path / 'earlier'}")
    assert "does not say which images it was fitted to" in capsys.readouterr().out


def test_healthy_images_of_the_patients_that_are_judged_are_refused(data, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(data / "train_healthy", mixed)
    for image in (data / "val_diseased").iterdir():
        shutil.copy(image, mixed / image.name.replace("_000", "_001"))
    read = f"--n_channels 1 --img_size {SIZE} --workers 0 --device cpu --normalise tissue --train_dir {mixed}"
    for words in (f"pca --components 3 --model_path {tmp_path / 'pca.pt'}", "intensity --match_contrast"):
        with pytest.raises(InputError, match=r"(?s)patient p100: 1 slice\(s\) here and 1 in .*mixed"):
            run(SAMPLE, f"--method {words} --data_dir {data / 'val_diseased'} {read}")
    assert not (tmp_path / "pca.pt").exists()
    # A preparation tells the patients whose names do not.
    shutil.copytree(data / "train_healthy", tmp_path / "prepared" / "train_healthy")
    shutil.copytree(data / "val_diseased", tmp_path / "prepared" / "val_diseased")
    (tmp_path / "prepared" / "prepare_mri.json").write_text("{}")
    (tmp_path / "prepared" / "manifest.csv").write_text("name,patient\np0_000,Ann\np100_000,Ann\n")
    read = read.replace(str(mixed), str(tmp_path / "prepared" / "train_healthy"))
    with pytest.raises(InputError, match="patient Ann"):
        run(SAMPLE, f"--method intensity --match_contrast --data_dir {tmp_path / 'prepared' / 'val_diseased'} {read}")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_labels_of_some_images_are_kept_at_any_batch_size(tmp_path, batch_size):
    rng = np.random.default_rng(0)
    for number, channels in enumerate((1, 2, 1, 2)):
        image = rng.random((channels, SIZE, SIZE), np.float32)
        image[1:] = image[1:] > 0.5
        (tmp_path / "some").mkdir(exist_ok=True)
        np.save(tmp_path / "some" / f"p{number}_000.npy", image)
    read = f"--n_channels 1 --img_size {SIZE} --normalise none --workers 0 --device cpu --batch_size {batch_size}"
    run(SAMPLE, f"--method intensity --data_dir {tmp_path / 'some'} {read} --out_dir {tmp_path / 'out'}")
    results = ResultFolder(tmp_path / "out")
    assert [results.load(name).label is None for name in results.names] == [True, False, True, False]


def test_results_record_the_patients_of_the_table(data, tmp_path):
    (tmp_path / "patients.csv").write_text("name,patient\np100,Ann\np101_000,Ann\n")
    read = f"--n_channels 1 --img_size {SIZE} --workers 0 --device cpu"
    words = f"--method intensity --data_dir {data / 'val_diseased'} {read}"
    run(SAMPLE, f"{words} --patients {tmp_path / 'patients.csv'} --out_dir {tmp_path / 'out'}")
    results = ResultFolder(tmp_path / "out")
    assert [results.load(name).patient for name in results.names[:3]] == ["Ann", "Ann", "p102"]
    assert "patients_hash" in results.run
    with pytest.raises(InputError, match="patients_hash"):
        run(SAMPLE, f"{words} --out_dir {tmp_path / 'out'}")


def test_what_a_competitor_lacks_is_named(data, tmp_path):
    diseased = f"--data_dir {data / 'val_diseased'} --n_channels 1 --img_size {SIZE} --workers 0 --device cpu"
    for words, expected in (
        ("--method pca", "--model_path"),
        (f"--method pca --model_path {tmp_path / 'none.pt'}", "--train_dir"),
        ("--method autoencoder", "--ae_load_dir"),
        ("--method intensity --channel 1", r"0\.\.0"),
    ):
        with pytest.raises(InputError, match=expected):
            run(SAMPLE, f"{diseased} {words}")
