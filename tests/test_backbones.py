"""Backbones: their grids, where their features lie, and the files of their weights."""

import pytest
import torch
from random_backbone import save_alexnet, save_resnet18
from torchvision.models import alexnet

from baselines import fae, patchcore
from baselines.backbones import BACKBONES, FrozenFeatures, backbone_weights
from uad.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def weights(folder):
    return save_alexnet(folder)


@pytest.fixture(scope="module")
def features(weights):
    found = FrozenFeatures("alexnet", list(BACKBONES["alexnet"].strides))
    found.load(weights)
    return found


def picture(size: int) -> torch.Tensor:
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))


def check_grids(features: FrozenFeatures) -> None:
    for size in (16, 48, 128):
        grids = [found.shape[2:] for found in features(picture(size))]
        strides = [features.backbone.strides[layer] for layer in features.layers]
        assert grids == [(size // stride, size // stride) for stride in strides]


def test_the_grids_of_layers_are_those_of_their_strides(features):
    check_grids(features)
    check_grids(FrozenFeatures("resnet18", list(BACKBONES["resnet18"].strides)))


def test_layers_are_told_by_their_strides():
    """The published layers of both methods, and of AlexNet what follows the first, second and fifth convolution."""
    resnet, other = BACKBONES["wide_resnet50_2"], BACKBONES["alexnet"]
    assert other.layers_at(patchcore.STRIDES) == ["4", "11"]
    assert resnet.layers_at(patchcore.STRIDES) == ["layer2", "layer3"]
    assert list(resnet.strides)[: fae.LAYERS] == ["maxpool", "layer1", "layer2"]
    assert list(other.strides)[: fae.LAYERS] == ["1", "4", "11"]


def test_alexnet_is_torchvisions_but_for_the_paddings(features, weights):
    """Far enough from the borders, 4 and 2 pixels of padding differ by a shift of 2 pixels."""
    whole = alexnet(weights=None).features
    saved = torch.load(weights, weights_only=True)
    whole.load_state_dict({k.removeprefix("features."): v for k, v in saved.items() if k.startswith("features.")})
    image = picture(64)
    shown = (image - features.mean) / features.deviation
    (found, *_), expected = features(image), whole[:2](shown[..., 2:, 2:])
    torch.testing.assert_close(found[..., 3:13, 3:13], expected[..., 2:12, 2:12])


def test_features_move_with_the_image(features):
    """By 16 pixels: 4, 2 and 1 positions, wherever the borders do not reach."""
    size, shift = 256, 16
    image = picture(size + shift)
    here, there = features(image[..., :size, :size]), features(image[..., shift:, shift:])
    for first, second, stride in zip(here, there, BACKBONES["alexnet"].strides.values(), strict=True):
        positions, reach = shift // stride, 112 // stride
        inner = slice(reach, size // stride - reach)
        moved = slice(inner.start + positions, inner.stop + positions)
        assert second[..., inner, inner].std() > 0
        torch.testing.assert_close(first[..., moved, moved], second[..., inner, inner], rtol=1e-4, atol=1e-4)


def test_weights_are_those_of_the_file(features, weights, monkeypatch, folder):
    saved = torch.load(weights, weights_only=True)
    assert torch.equal(features.network[0].weight, saved["features.0.weight"])
    assert torch.equal(features.network[10].bias, saved["features.10.bias"])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder / "hub"))
    with pytest.raises(InputError, match=BACKBONES["alexnet"].url):
        backbone_weights("alexnet", None)
    cached = folder / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert backbone_weights("alexnet", None) == cached


def test_weights_of_another_network_are_refused_with_the_file_named(features, weights, folder):
    resnet = save_resnet18(folder)
    with pytest.raises(InputError, match=r"resnet18\.pth: features\.0\.weight"):
        features.load(resnet)
    with pytest.raises(InputError, match=r"alexnet\.pth: layer1\.0\.conv1\.weight"):
        FrozenFeatures("resnet18", ["layer1"]).load(weights)
    saved = torch.load(weights, weights_only=True)
    damaged = folder / "damaged.pth"
    torch.save(saved | {"features.3.weight": saved["features.3.weight"][:100]}, damaged)
    with pytest.raises(InputError, match=r"damaged\.pth: features\.3\.weight"):
        features.load(damaged)
