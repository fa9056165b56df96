"""Loss terms of stage 1 against closed forms."""

import pytest
import torch
from torchvision.models import vgg16

from binary_autoencoder.losses import (
    VGG16_FILE,
    PerceptualLoss,
    adaptive_weight,
    code_uncertainty,
    code_usage,
    colour_and_translation,
    discriminator_hinge,
)
from uad.imagenet import found_weights


def test_code_terms():
    assert code_uncertainty(torch.full((2, 3, 4, 4), 0.5)) == 0.25
    assert code_uncertainty(torch.ones(2, 3, 4, 4)) == 0
    code = torch.zeros(1, 4, 10, 10)
    code[:, 1] = 1
    code[:, 2, :5] = 1
    usage = code_usage(code)
    assert usage["bits_set"] == pytest.approx(1.5 / 4)
    assert usage["bits_unused"] == pytest.approx(3 / 4)


def test_hinge_is_zero_beyond_the_margin():
    assert discriminator_hinge(torch.full((4,), 1.5), torch.full((4,), -2.0)) == 0
    assert discriminator_hinge(torch.zeros(4), torch.zeros(4)) == 1


def test_adaptive_weight_is_the_ratio_of_gradient_norms():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (3 * last).sum(), (0.5 * last).sum()
    weight = adaptive_weight(reconstruction, adversarial, last, 100.0, lambda gradient: gradient)
    assert weight == pytest.approx(6.0, rel=1e-3)
    assert adaptive_weight(reconstruction, adversarial, last, 1.0, lambda gradient: gradient) == 1


def test_augmentation_limits():
    x = torch.rand(3, 2, 16, 16)
    neutral = torch.full((3, 5), 0.5)
    torch.testing.assert_close(colour_and_translation(x, neutral), x)
    down = neutral.clone()
    down[:, 3] = 0.0  # the largest shift towards larger rows: an eighth of 16
    shifted = colour_and_translation(x, down)
    torch.testing.assert_close(shifted[:, :, 2:], x[:, :, :-2])
    assert (shifted[:, :, :2] == 0).all()
    uniform = torch.rand(3, 5)
    alone = torch.cat([colour_and_translation(x[i : i + 1], uniform[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(colour_and_translation(x, uniform), alone)


def test_perceptual_distance(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    assert found_weights(None, VGG16_FILE) is None
    torch.manual_seed(0)
    torch.save(vgg16(weights=None).state_dict(), tmp_path / "vgg.pth")
    distance = PerceptualLoss(found_weights(str(tmp_path / "vgg.pth"), VGG16_FILE))
    x, y = torch.rand(2, 4, 32, 32), torch.rand(2, 4, 32, 32)
    assert distance(x, x) == 0
    assert distance(x, y) > 0
    order = [2, 0, 3, 1]
    torch.testing.assert_close(distance(x[:, order], y[:, order]), distance(x, y))
