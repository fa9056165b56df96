"""The Bernoulli process against closed forms, Monte Carlo and brute-force Bayes."""

import math

import pytest
import torch

from bernoulli_diffusion.process import BernoulliDiffusion, alpha_bar_table

T = 12


@pytest.fixture(params=["linear", "cosine"])
def process(request) -> BernoulliDiffusion:
    return BernoulliDiffusion(T, request.param)


def kernel(keep: float) -> torch.Tensor:
    """Transition matrix [from, to] of Bernoulli(keep z + (1 - keep) / 2)."""
    return torch.tensor([[1 + keep, 1 - keep], [1 - keep, 1 + keep]], dtype=torch.float64) / 2


def step_kernels(process: BernoulliDiffusion) -> list[torch.Tensor]:
    """One-step kernels q(z_t | z_{t-1}); index 0 is the identity."""
    a = process.alpha_bar
    return [kernel(1.0)] + [kernel(float(a[t] / a[t - 1])) for t in range(1, T + 1)]


def test_paper_schedule_limits():
    table = alpha_bar_table("linear", 1000)
    assert table[0] == 1 and len(table) == 1001
    assert table[1] == pytest.approx(1 - 1e-4)
    assert 1 - table[1000] / table[999] == pytest.approx(2e-2)
    assert table[1000] < 1e-4
    assert bool((table[1:] < table[:-1]).all())
    assert alpha_bar_table("cosine", 1000)[500] == pytest.approx(0.4922, abs=2e-3)


def test_marginals_are_products_of_one_step_kernels(process):
    product = torch.eye(2, dtype=torch.float64)
    for t, step in enumerate(step_kernels(process)):
        product = product @ step
        torch.testing.assert_close(product, kernel(float(process.alpha_bar[t])))


def test_q_sample_has_the_marginal_frequencies(process):
    count = 400_000
    generator = torch.Generator().manual_seed(0)
    for bit in (0.0, 1.0):
        for t in (1, T // 2, T):
            z_0 = torch.full((1, 1, 1, count), bit)
            z_t = process.q_sample(z_0, torch.tensor([t]), torch.rand(z_0.shape, generator=generator))
            expected = float(process.alpha_bar[t]) * bit + (1 - float(process.alpha_bar[t])) / 2
            tolerance = 5 * math.sqrt(0.25 / count)
            assert z_t.mean().item() == pytest.approx(expected, abs=tolerance)


def test_released_kernel_only_clears_bits():
    process = BernoulliDiffusion(T, noise_kernel="released")
    z_0 = torch.randint(0, 2, (1, 8, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    z_t = process.q_sample(z_0, torch.tensor([T]), torch.rand(z_0.shape, generator=torch.Generator().manual_seed(1)))
    assert bool((z_t <= z_0).all()) and bool((z_t < z_0).any())


def test_posterior_is_brute_force_bayes_for_all_pairs(process):
    """q(z_s | z_t, x0) = sum over paths, by multiplying one-step kernels, for every 0 <= s < t <= T and all bits."""
    steps = step_kernels(process)
    cumulative = [torch.linalg.multi_dot([torch.eye(2, dtype=torch.float64), *steps[: t + 1]]) for t in range(T + 1)]
    for t in range(1, T + 1):
        for s in range(t):
            between = torch.eye(2, dtype=torch.float64)
            for i in range(s + 1, t + 1):
                between = between @ steps[i]
            for z_t in (0, 1):
                for x0 in (0, 1):
                    joint = cumulative[s][x0] * between[:, z_t]
                    expected = joint[1] / joint.sum()
                    given = [torch.full((1, 1, 1, 1), float(v)) for v in (z_t, x0)]
                    found = process.posterior(*given, torch.tensor([t]), torch.tensor([s])).item()
                    assert found == pytest.approx(float(expected), abs=2e-6)


def test_posterior_chain_keeps_the_marginal(process):
    """Averaging the posterior over z_t ~ q(z_t | z_0) gives q(z_s | z_0)."""
    for s, t in ((0, T), (3, 4), (2, T)):
        for x0 in (0.0, 1.0):
            p_t = float(process.alpha_bar[t]) * x0 + (1 - float(process.alpha_bar[t])) / 2
            one, zero, x = (torch.full((1, 1, 1, 1), v) for v in (1.0, 0.0, x0))
            pair = (torch.tensor([t]), torch.tensor([s]))
            mean = p_t * process.posterior(one, x, *pair) + (1 - p_t) * process.posterior(zero, x, *pair)
            expected = float(process.alpha_bar[s]) * x0 + (1 - float(process.alpha_bar[s])) / 2
            assert mean.item() == pytest.approx(expected, abs=1e-5)


def test_loss_limits():
    """A network that knows t alone has the entropy of the noise as its loss; one that knows z_0 has none."""
    process = BernoulliDiffusion()
    z_0 = torch.randint(0, 2, (4, 16, 32, 32), generator=torch.Generator().manual_seed(0)).float()
    t = torch.tensor([100, 200, 500, 1000])
    uniform = torch.rand(z_0.shape, generator=torch.Generator().manual_seed(1))
    log_odds = process.noise_log_odds()
    ignorant = process.training_loss(lambda z, t: log_odds[t][:, None, None, None].expand_as(z), z_0, t, uniform)
    torch.testing.assert_close(ignorant.loss, ignorant.noise_entropy, rtol=0.05, atol=0)
    knowing = process.training_loss(lambda z, t: 200 * ((z != z_0).float() - 0.5), z_0, t, uniform)
    assert knowing.loss.max() < 1e-6
