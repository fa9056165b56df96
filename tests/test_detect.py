"""Masked denoising: its limits, its invariances, and a planted anomaly."""

from itertools import pairwise

import pytest
import torch

from bernoulli_diffusion.detect import denoising_steps, masked_denoise
from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from uad.randomness import keyed_generator

PROCESS = BernoulliDiffusion()
SHAPE = (8, 8, 8)


def codes(count: int) -> torch.Tensor:
    return torch.randint(0, 2, (count, *SHAPE), generator=torch.Generator().manual_seed(3)).float()


def generators(names) -> list[torch.Generator]:
    return [keyed_generator(0, name) for name in names]


@pytest.fixture(scope="module")
def network() -> FlipUNet:
    torch.manual_seed(0)
    net = FlipUNet(8, 8, 32, (1, 2), 1, (4,)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


def test_empty_mask_returns_the_code_bit_for_bit(network):
    code = codes(3)
    outcome = masked_denoise(network, code, PROCESS, generators("abc"), 50, prob_threshold=1.0)
    assert torch.equal(outcome.code, code)
    assert not outcome.mask.any()


def test_zero_threshold_is_unmasked_sampling(network):
    """P = 0 against a plain sampler written out here, with the same random numbers."""
    code, level = codes(2), 20
    outcome = masked_denoise(network, code, PROCESS, generators("ab"), level, prob_threshold=0.0)
    rngs = generators("ab")

    def draw():
        return torch.stack([torch.rand(SHAPE, generator=g) for g in rngs])

    with torch.inference_mode():
        steps = [torch.full((2,), t) for t in range(level + 1)]
        z = PROCESS.q_sample(code, steps[level], draw())
        for t in range(level, 0, -1):
            x0 = (z - torch.sigmoid(network(z, steps[t]))).abs()
            probability = x0 > 0.5 if t == 1 else draw() < PROCESS.posterior(z, x0, steps[t], steps[t - 1])
            z = probability.float()
    assert outcome.mask.all()
    assert torch.equal(outcome.code, z)


def test_mask_accumulates_and_guards_the_other_bits(network):
    masks, code = [], codes(4)
    outcome = masked_denoise(
        network, code, PROCESS, generators("abcd"), 30, 0.6, callback=lambda s, z, mask: masks.append(mask.clone())
    )
    assert len(masks) == 30
    assert all(bool((late | early).eq(late).all()) for early, late in pairwise(masks))
    assert 0 < outcome.mask.float().mean() < 1
    assert torch.equal(outcome.code[~outcome.mask], code[~outcome.mask])


@pytest.mark.parametrize("steps", [None, 7])
def test_result_of_a_code_is_the_same_in_any_batch(network, steps):
    code, names = codes(7), "abcdefg"
    together = masked_denoise(network, code, PROCESS, generators(names), 40, 0.5, steps)
    for i, name in enumerate(names):
        alone = masked_denoise(network, code[i : i + 1], PROCESS, generators(name), 40, 0.5, steps)
        assert torch.equal(alone.code[0], together.code[i])
        assert torch.equal(alone.mask[0], together.mask[i])
    order = torch.tensor([4, 1, 6, 0, 2, 5, 3])
    shuffled = masked_denoise(network, code[order], PROCESS, generators(names[i] for i in order), 40, 0.5, steps)
    assert torch.equal(shuffled.code, together.code[order])


def test_planted_anomaly_is_taken_out():
    """A network that knows the healthy code restores exactly the bits that were planted, and no others."""
    healthy = codes(1)
    planted = healthy.clone()
    planted[:, :, 2:4, 2:4] = 1 - planted[:, :, 2:4, 2:4]

    def oracle(z_t, t):
        return 20 * ((z_t != healthy).float() - 0.5)

    outcome = masked_denoise(oracle, planted, PROCESS, generators("a"), 200, 0.5)
    assert torch.equal(outcome.code, healthy)
    assert outcome.flip_probability[:, :, 2:4, 2:4].mean() > outcome.flip_probability[:, :, 5:, 5:].mean() + 0.2


def test_steps_end_at_zero_and_reach_every_level_if_there_are_as_many():
    assert denoising_steps(200, 200) == list(range(200, -1, -1))
    assert denoising_steps(7, 3)[0] == 7 and denoising_steps(7, 3)[-1] == 0
    with pytest.raises(ValueError, match=r"1\.\.10"):
        denoising_steps(10, 11)


def test_quadratic_steps_are_shorter_where_the_noise_is_weak():
    assert denoising_steps(200, 5) == [200, 128, 72, 32, 8, 0]
    for steps in (1, 2, 9, 19, 20):
        levels = denoising_steps(20, steps)
        assert len(levels) == steps + 1 and levels[0] == 20 and levels[-1] == 0
        assert all(t > s for t, s in pairwise(levels))
