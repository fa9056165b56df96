"""Latent diffusion: KL map and inpainting against closed forms, and the detector after a short training."""

import numpy as np
import pytest
import torch
from short_training import batches, discs, image_generators, mean_auroc, train
from torch import nn

from baselines import ldm
from baselines.gaussian import make_scheduler, per_image_noise, posterior, predicted_clean, q_sample
from baselines.inpainting import inpaint, inpainting_evaluations
from uad.errors import InputError

SIZE = 32
SCHEDULER = make_scheduler("linear_beta", 1000, 0.0015, 0.0195)


def true_noise(clean, z_t, t):
    """The noise that is in z_t."""
    abar = SCHEDULER.alphas_cumprod[t]
    return (z_t - abar.sqrt() * clean) / (1 - abar).sqrt()


@pytest.fixture(scope="module")
def trained():
    config = ldm.configuration(SIZE, 2, "small")
    config["unet"] |= {"channels": [32, 32, 32], "head_channels": [0, 32, 32]}
    images, _ = discs(64, SIZE, seed=0)
    return train(ldm, config, images, {"vqvae": 120, "diffusion": 60})


def detector(trained, **options) -> ldm.Detector:
    config, modules = trained
    return ldm.Detector(config, modules, options)


def test_codebook_vectors_that_a_batch_does_not_use_stay_in_reach():
    """MONAI's own running counts begin at 0, which sends them off by a factor of about 1e5 in the first step."""
    torch.manual_seed(0)
    vqvae = ldm.build(ldm.configuration(SIZE, 2, "small"))["vqvae"].train()
    before = vqvae.quantizer.quantizer.embedding.weight.norm(dim=1)
    vqvae(torch.rand(2, 2, SIZE, SIZE))
    assert vqvae.quantizer.quantizer.embedding.weight.norm(dim=1).max() < 2 * before.max()


def test_the_kl_is_zero_where_the_noise_is_predicted_exactly():
    clean = torch.randn(2, 3, 4, 4)
    kl = ldm.kl_map(SCHEDULER, clean, lambda z, t: true_noise(clean, z, t), image_generators([0, 1]), [400, 500])
    assert kl.shape == (2, 4, 4)
    assert kl.abs().max() < 1e-8


@pytest.mark.parametrize("t", [1, 500, 999])
def test_the_kl_is_that_of_the_two_reverse_steps(t):
    clean = torch.randn(2, 3, 4, 4)
    wrong = 0.3 * torch.randn_like(clean)
    seen = []

    def predict(z_t, step):
        noise = true_noise(clean, z_t, step) + wrong
        seen.append((z_t, noise))
        return noise

    kl = ldm.kl_map(SCHEDULER, clean, predict, image_generators([0, 1]), [t])
    (z_t, noise), *_ = seen
    true_mean, variance = posterior(SCHEDULER, z_t, clean, t)
    model_mean, _ = posterior(SCHEDULER, z_t, predicted_clean(SCHEDULER, z_t, noise, t), t)
    expected = ((true_mean - model_mean) ** 2 / (2 * variance)).mean(1)
    torch.testing.assert_close(kl, expected, rtol=1e-3, atol=1e-6)


def test_inpainting_keeps_what_is_known():
    """Outside the mask the state is the noised clean image at every step, and the clean image itself at the end."""
    clean, start = torch.randn(2, 3, 4, 4), 20
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, :, 1:3] = True
    states = {}
    begin = q_sample(SCHEDULER, clean, per_image_noise(image_generators([8, 9]), (3, 4, 4)), start)
    result = inpaint(
        SCHEDULER,
        begin,
        clean,
        mask,
        start,
        lambda z_t, t: torch.full_like(z_t, 7.0),
        image_generators([0, 1]),
        callback=states.__setitem__,
    )
    generators = image_generators([0, 1])
    outside = ~mask.expand_as(clean)
    for t in range(start - 1, -1, -1):
        per_image_noise(generators, (3, 4, 4))  # of the reverse step
        expected = q_sample(SCHEDULER, clean, per_image_noise(generators, (3, 4, 4)), t)
        assert torch.equal(states[t][outside], expected[outside])
    assert torch.equal(result[outside], clean[outside])
    assert torch.equal(states[-1], result)
    torch.testing.assert_close(result[~outside], torch.full_like(result[~outside], 7.0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("resamplings", [1, 3])
def test_inpainting_evaluates_its_network_as_often_as_it_says(resamplings):
    calls = []

    def predict(z_t, t):
        calls.append(t)
        return z_t

    clean = torch.zeros(1, 1, 2, 2)
    inpaint(SCHEDULER, clean, clean, clean == 0, 5, predict, image_generators([0]), resamplings)
    assert len(calls) == inpainting_evaluations(5, resamplings)
    assert calls.count(0) == 1


def test_going_back_keeps_the_variance():
    """With an exact prediction the state at t has the variance 1 - abar_t, however often a step is repeated."""
    clean, start = torch.zeros(1, 1, 100, 100), 200
    spread = {}
    begin = q_sample(SCHEDULER, clean, per_image_noise(image_generators([1]), (1, 100, 100)), start)
    inpaint(
        SCHEDULER,
        begin,
        clean,
        torch.ones(1, 1, 1, 1, dtype=torch.bool),
        start,
        lambda z_t, t: clean,
        image_generators([0]),
        3,
        lambda t, z: spread.__setitem__(t, float(z.var())),
    )
    for t in (199, 150, 100):
        assert spread[t] == pytest.approx(1 - float(SCHEDULER.alphas_cumprod[t]), rel=0.08)


def test_latents_have_unit_spread_after_scaling(trained):
    config, modules = trained
    images, _ = discs(64, SIZE, seed=0)
    latents = ldm.encode(modules["vqvae"], images) * config["scale_factor"]
    assert float(latents.std()) == pytest.approx(1, rel=1e-3)
    again = ldm.calibrate("diffusion", config, modules, batches(images, 5), torch.device("cpu"))
    assert again["scale_factor"] == pytest.approx(config["scale_factor"], rel=1e-6)


def test_a_codebook_that_could_move_is_refused():
    modules = ldm.build(ldm.configuration(SIZE, 2, "small"))
    with pytest.raises(ValueError, match="training mode"):
        ldm.encode(modules["vqvae"].train(), torch.zeros(1, 2, SIZE, SIZE))


def test_the_codebook_search_is_exact_under_autocast():
    """Codes that differ by less than bfloat16 can tell apart."""
    vqvae = ldm.build(ldm.configuration(SIZE, 2, "small"))["vqvae"].eval()
    codebook = vqvae.quantizer.quantizer.embedding.weight
    codebook.copy_(1 + 0.01 * torch.arange(len(codebook))[:, None].expand_as(codebook))
    encodings = codebook[:16].T.reshape(1, -1, 4, 4) + 1e-4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quantised, _ = vqvae.quantize(encodings)
    torch.testing.assert_close(quantised, encodings - 1e-4, rtol=0, atol=1e-5)


def test_a_planted_lesion_is_found(trained):
    images, masks = discs(6, SIZE, seed=1, lesion=True)
    result = detector(trained, noise_level=30).reconstruct(images, image_generators(range(6)))
    assert mean_auroc(result.anomaly_map, masks) > 0.9
    inside = result.image.amax(1)[masks].mean()
    assert inside < 0.8  # the healthy counterpart of a lesion of 0.95


class IdealNetwork(nn.Module):
    """What training would end with if all healthy images had the same latents."""

    def __init__(self, latents: torch.Tensor, config: dict):
        super().__init__()
        self.latents, self.abar = latents, make_scheduler(**config["process"]).alphas_cumprod

    def forward(self, z_t, t):
        abar = self.abar[t][:, None, None, None]
        return (z_t - abar.sqrt() * self.latents) / (1 - abar).sqrt()


def test_unlikely_latents_are_masked_and_made_healthy(trained):
    config, modules = trained
    healthy, _ = discs(1, SIZE, seed=1)
    image, mask = healthy.clone(), torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, 2:8, 2:8] = True
    image[:, :, 2:8, 2:8] = 0.95
    network = IdealNetwork(ldm.encode(modules["vqvae"], healthy) * config["scale_factor"], config)
    options = {"masked": True, "kl_range": [5, 25], "noise_level": 30, "kl_threshold": 1e-3}
    method = ldm.Detector(config, modules | {"diffusion": network}, options)
    result = method.reconstruct(image, image_generators([0]))
    latent = result.extras["latent_mask"].bool()
    scale = SIZE // latent.shape[-1]
    fine = latent.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    assert fine[mask].float().mean() > 0.8
    assert fine[~mask].float().mean() < 0.2
    assert (result.anomaly_map[~fine] == 0).all()
    assert mean_auroc(result.anomaly_map, mask) > 0.9
    own = method.reconstruct(healthy, image_generators([0])).extras["autoencoder"]
    torch.testing.assert_close(result.image, own, rtol=0, atol=1e-4)


def calibrated(method, healthy: torch.Tensor) -> dict:
    return method.take_threshold(method.healthy_values(healthy, range(len(healthy))))


def test_the_healthy_percentile_is_kept(trained):
    healthy, _ = discs(24, SIZE, seed=2)
    method = detector(trained, masked=True, mask_percentile=90.0, noise_level=1, kl_stride=20)
    values = calibrated(method, healthy)
    latent = SIZE // 2
    assert torch.tensor(values["kl_threshold"]).shape == (latent, latent)
    share = method.reconstruct(healthy, image_generators(range(24))).numbers["mask_share"].mean()
    assert 0.03 < float(share) < 0.25


def test_calibration_does_not_depend_on_the_batches(trained):
    healthy, _ = discs(6, SIZE, seed=2)
    method = detector(trained, masked=True, kl_stride=20)
    together = method.healthy_values(healthy, range(6))
    apart = np.concatenate([method.healthy_values(healthy[i : i + 2], range(i, i + 2)) for i in (4, 0, 2)])
    thresholds = [torch.tensor(method.take_threshold(values)["kl_threshold"]) for values in (together, apart)]
    torch.testing.assert_close(*thresholds, rtol=1e-4, atol=1e-6)


def test_an_earlier_calibration_can_be_given_back(trained):
    healthy, _ = discs(6, SIZE, seed=2)
    images, _ = discs(2, SIZE, seed=1, lesion=True)
    first = detector(trained, masked=True, noise_level=2, kl_stride=40)
    second = detector(trained, masked=True, noise_level=2, kl_stride=40, **calibrated(first, healthy))
    maps = [method.reconstruct(images, image_generators([0, 1])).anomaly_map for method in (first, second)]
    assert torch.equal(*maps)


@pytest.mark.parametrize("masked", [False, True])
def test_a_map_does_not_depend_on_the_batch(trained, masked):
    images, _ = discs(3, SIZE, seed=3, lesion=True)
    method = detector(trained, masked=masked, noise_level=5, kl_stride=20)
    method.kl_threshold = 0.6
    together = method.reconstruct(images, image_generators(range(3)))
    for i in range(3):
        alone = method.reconstruct(images[i : i + 1], image_generators([i]))
        torch.testing.assert_close(alone.anomaly_map[0], together.anomaly_map[i], rtol=1e-3, atol=1e-5)


def test_the_residual_against_the_autoencoder_is_zero_where_nothing_changed(trained):
    """An empty mask: the latents stay, so that the image is the autoencoder's own."""
    images, _ = discs(2, SIZE, seed=3, lesion=True)
    method = detector(trained, masked=True, residual_against="autoencoder", noise_level=2)
    method.kl_threshold = 1e9
    result = method.reconstruct(images, image_generators([0, 1]))
    assert torch.equal(result.image, result.extras["autoencoder"])
    assert result.anomaly_map.abs().max() == 0


def test_without_a_mask_healthy_images_are_not_needed(trained):
    assert not detector(trained).needs_healthy and detector(trained, masked=True).needs_healthy


def test_the_masked_variant_says_what_it_lacks(trained):
    images, _ = discs(1, SIZE, seed=3)
    with pytest.raises(InputError, match="healthy"):
        detector(trained, masked=True).reconstruct(images, image_generators([0]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("noise_level", 201),
        ("kl_range", [0, 100]),
        ("kl_range", [120, 80]),
        ("kl_stride", 0),
        ("mask_percentile", 101),
        ("mask_scope", "pixel"),
        ("resamplings", 0),
        ("residual_against", "label"),
    ],
)
def test_options_out_of_range_are_refused(trained, option, value):
    with pytest.raises(InputError, match=option):
        detector(trained, **{option: value})


@pytest.mark.parametrize("size", [33, 36])
def test_an_image_size_that_does_not_fit_is_refused(size):
    with pytest.raises(InputError, match="multiple"):
        ldm.configuration(size, 1, "paper")


@pytest.mark.parametrize(("size", "downsamplings"), [(128, 2), (256, 3), (512, 4)])
def test_latents_are_32_by_32(size, downsamplings):
    assert ldm.configuration(size, 1, "paper")["vqvae"]["downsamplings"] == downsamplings


def test_the_paper_preset_has_the_published_sizes():
    """About 7.1 million parameters in the VQ-VAE and 64 million in the U-Net, latents 32 x 32."""
    config = ldm.configuration(256, 4, "paper")
    with torch.device("meta"):
        modules = ldm.build(config)
        latents = modules["vqvae"].encode(torch.empty(1, 4, 256, 256))
        predicted = modules["diffusion"](latents, torch.zeros(1, dtype=torch.long))
    assert latents.shape == predicted.shape == (1, config["vqvae"]["embedding_dim"], 32, 32)
    assert sum(p.numel() for p in modules["vqvae"].parameters()) == pytest.approx(7.1e6, rel=0.02)
    assert sum(p.numel() for p in modules["diffusion"].parameters()) == pytest.approx(64.2e6, rel=0.01)
