"""Weights of 16 bits: how near they are, and that nothing is lost by doing it again."""

import torch

from uad.weights import rounded_weights, stored_weights, weights_hash


def state_of(*channels: float) -> dict:
    """A large convolution whose output channels have these greatest weights, its biases, and a small one."""
    torch.manual_seed(0)
    weight = torch.rand(len(channels), 800, 3, 3) * 2 - 1
    weight *= torch.tensor(channels).view(-1, 1, 1, 1) / weight.abs().flatten(1).amax(1).view(-1, 1, 1, 1)
    small = torch.randn(4, 5, 3, 3)
    return {"weight": weight, "bias": torch.randn(len(channels)), "small": small, "count": torch.tensor(7)}


def test_each_channel_is_rounded_by_its_own_greatest_weight():
    channels = (1e-30, 0.0, 1.0, 0.99999, 3e4)
    state = state_of(*channels)
    state["weight"][1] = 0
    content = rounded_weights(state)
    assert content["weights"]["weight"].dtype == torch.int16
    again = stored_weights(content)
    for before, after, greatest in zip(state["weight"], again["weight"], channels, strict=True):
        assert (before - after).abs().max() <= greatest * 2**-15.9
    assert all(torch.equal(again[name], state[name]) for name in ("bias", "small", "count"))
    assert content["weights_hash"] == weights_hash(again)


def test_rounded_again_they_are_the_same():
    once = rounded_weights(state_of(0.3, 1.0, 2.0**-0.0000001))
    twice = rounded_weights(stored_weights(once))
    assert once["weights_hash"] == twice["weights_hash"]
    for part in ("weights", "steps"):
        assert all(torch.equal(once[part][name], twice[part][name]) for name in once[part])


def test_rounding_is_finer_than_float16():
    state = state_of(*[1.0] * 8)
    rounded = (stored_weights(rounded_weights(state))["weight"] - state["weight"]).square().mean().sqrt()
    assert rounded < (state["weight"].half().float() - state["weight"]).square().mean().sqrt() / 4
