"""Dropout by keys: the masks look random, and depend on nothing but image, layer and place."""

import math

import numpy as np
import pytest
import torch
from small_diffusion import BATCH, small_network, train

from uad.layers import KeyedDropout, image_keys

CPU = torch.device("cpu")
RATE = 0.3


def dropped(positions: range, number: int = 0, shape: tuple[int, ...] = (32, 16, 16), rate: float = RATE):
    """Which values are set to zero, (N, *shape), bool."""
    x = torch.ones(len(positions), *shape)
    return KeyedDropout(rate, number)(x, image_keys(0, positions)) == 0


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Between two masks, in standard deviations of what independent ones would give."""
    pair = torch.stack([first.flatten(), second.flatten()]).double()
    return float(torch.corrcoef(pair)[0, 1].abs()) * math.sqrt(first.numel())


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_rate_is_kept_and_what_stays_is_scaled(rate):
    x = torch.ones(64, 32, 16, 16)
    y = KeyedDropout(rate, 3)(x, image_keys(0, range(64)))
    share = float((y == 0).double().mean())
    assert share == pytest.approx(rate, abs=5 * math.sqrt(rate * (1 - rate) / x.numel()))
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)))


def test_layers_images_channels_and_places_are_independent():
    masks = dropped(range(256))
    assert correlation(masks, dropped(range(256), number=1)) < 5
    assert correlation(masks[:-1], masks[1:]) < 5
    assert correlation(masks[:, :-1], masks[:, 1:]) < 5
    assert correlation(masks[..., :-1], masks[..., 1:]) < 5
    # No place, channel or image is favoured: the largest of so many deviations stays below 5.5.
    for dims in ((0,), (0, 1), (0, 2, 3), (1, 2, 3)):
        count = math.prod(masks.shape[d] for d in dims)
        deviations = (masks.double().mean(dims) - RATE) / math.sqrt(RATE * (1 - RATE) / count)
        assert deviations.abs().max() < 5.5
        assert deviations.square().mean() == pytest.approx(1, abs=5 * math.sqrt(2 / deviations.numel()))


def test_an_image_has_its_mask_in_every_batch():
    whole = dropped(range(10, 16))
    assert torch.equal(torch.cat([dropped(range(10, 11)), dropped(range(11, 16))]), whole)
    x, keys = torch.rand(6, 8, 4, 4), image_keys(0, range(10, 16))
    layer, order = KeyedDropout(RATE, 2), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(layer(x[order], keys[order]), layer(x, keys)[order])
    assert torch.equal(layer(x.contiguous(memory_format=torch.channels_last), keys), layer(x, keys))


def test_masks_are_those_of_a_hash_in_unsigned_numbers():
    """What NumPy computes with 32 unsigned bits, so on every machine and device."""

    def mixed(x: np.ndarray) -> np.ndarray:
        x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    keys = image_keys(5, range(3))
    words = keys.numpy().view(np.uint32).astype(np.uint64)
    image = mixed(mixed(words[:, :1] + np.uint64(7) & 0xFFFFFFFF) ^ words[:, 1:])
    place = mixed(np.arange(60, dtype=np.uint64))[None]
    signed = mixed(image ^ place).astype(np.uint32).view(np.int32)
    expected = (signed < RATE * 2**32 - 2**31).reshape(3, 3, 4, 5)
    found = KeyedDropout(RATE, 7)(torch.ones(3, 3, 4, 5), keys) == 0
    np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_has_the_same_masks():
    x, keys = torch.rand(8, 32, 16, 16), image_keys(0, range(8))
    layer = KeyedDropout(RATE, 1)
    assert torch.equal(layer(x.cuda(), keys.cuda()).cpu(), layer(x, keys))


def test_nothing_is_dropped_without_a_rate_or_in_evaluation():
    x = torch.rand(2, 3, 4, 4)
    assert KeyedDropout(0.0, 0)(x) is x
    assert KeyedDropout(RATE, 0).eval()(x) is x


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="keys"):
        KeyedDropout(RATE, 0)(torch.rand(2, 3))
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="rate"):
            KeyedDropout(rate, 0)


def test_the_gradient_goes_where_the_values_went():
    x = torch.rand(4, 8, 4, 4, requires_grad=True)
    y = KeyedDropout(RATE, 0)(x, image_keys(0, range(4)))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach() / x.detach())
    assert 0 < int((x.grad == 0).sum()) < x.numel()


def test_half_precision_stays_and_a_compiled_layer_is_the_same():
    x, keys = torch.rand(2, 8, 4, 4, dtype=torch.bfloat16), image_keys(0, range(2))
    layer = KeyedDropout(RATE, 0)
    assert layer(x, keys).dtype == torch.bfloat16
    assert torch.equal(torch.compile(layer, backend="aot_eager", fullgraph=True)(x, keys), layer(x, keys))


def test_the_unet_needs_keys_in_training_and_draws_other_masks_in_every_layer():
    network, z_t, t = small_network(RATE), torch.ones(2, 4, 8, 8), torch.tensor([1, 100])
    with pytest.raises(ValueError, match="keys"):
        network(z_t, t)
    numbers = [layer.number for layer in network.modules() if isinstance(layer, KeyedDropout)]
    assert len(numbers) == len(set(numbers)) == 8
    first, again, other = (network(z_t, t, image_keys(seed, [0, 1])) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other, atol=1e-3)
    network.eval()
    assert torch.equal(network(z_t, t), network(z_t, t, image_keys(0, [0, 1])))
    assert network.state_dict().keys() == small_network(0.0).state_dict().keys()


def assert_same_weights(first: dict, second: dict, tolerance: float) -> None:
    for part in ("models", "ema", "optimizers"):
        torch.testing.assert_close(first[part], second[part], atol=tolerance, rtol=0)


def test_a_training_with_dropout_and_pictures_goes_on_bit_for_bit(tmp_path):
    def sample(step, ema):
        """Draws from torch's generator, and asks the network."""
        ema(torch.randint(0, 2, (2, 4, 8, 8)).float(), torch.tensor([1, 100]))

    whole = train(tmp_path / "whole", 8)
    train(tmp_path / "parts", 5, sample=sample)
    assert_same_weights(whole, train(tmp_path / "parts", 8), 0.0)
    # What is compared depends on dropout.
    without = train(tmp_path / "without", 8, dropout=0.0)
    first, second = (state["models"]["unet"]["out.2.weight"] for state in (whole, without))
    assert (first - second).abs().max() > 1e-4


def test_microbatches_and_processes_give_the_weights_of_one(tmp_path):
    whole = train(tmp_path / "whole", 6)
    for name, more in (("chunks", {"microbatch": 1}), ("uneven", {"microbatch": BATCH - 1}), ("two", {"processes": 2})):
        assert_same_weights(whole, train(tmp_path / name, 6, **more), 1e-6)
