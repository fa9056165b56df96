"""The networks against the released ones: golden outputs, parameter counts, checkpoint keys."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bernoulli_diffusion.process import BernoulliDiffusion
from bernoulli_diffusion.unet import FlipUNet
from binary_autoencoder.checkpoint import released_weights
from binary_autoencoder.networks import BinaryAutoEncoder, Discriminator
from uad.errors import InputError
from uad.layers import GroupNorm
from uad.precision import autocast, prepare_inference
from uad.weights import load_weights

HERE = Path(__file__).parent
GOLDEN_AUTOENCODER = {
    "img_size": 32, "n_channels": 2, "nf": 32, "ch_mult": (1, 2), "res_blocks": 1, "codebook_size": 16,
    "emb_dim": 32, "attn_resolutions": (16,), "norm_first": True,
}  # fmt: skip


def golden(name: str) -> tuple[dict, dict]:
    """Weights and arrays of a golden file, as float32 tensors."""
    with np.load(HERE / name) as file:
        arrays = {key: torch.from_numpy(file[key].astype(np.float32)) for key in file.files}
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    return weights, {key: value for key, value in arrays.items() if not key.startswith("w/")}


def released_shapes(name: str) -> dict[str, tuple[int, ...]]:
    keys = json.loads((HERE / "released_checkpoint_keys.json").read_text())
    return {key: tuple(shape) for key, shape in keys[name].items()}


@torch.inference_mode()
def test_autoencoder_matches_the_released_network():
    weights, data = golden("golden_autoencoder.npz")
    network = BinaryAutoEncoder(**GOLDEN_AUTOENCODER)
    released = {f"ae.{key}": value for key, value in weights.items()} | {"disc.main.0.bias": torch.zeros(3)}
    load_weights(network, released_weights(released, GOLDEN_AUTOENCODER), "golden")
    probability = network.encode(data["x"])
    torch.testing.assert_close(probability, data["prob"], atol=1e-4, rtol=0)
    assert torch.equal((probability > 0.5).float(), data["code"])
    torch.testing.assert_close(network.decode(data["code"]), data["recon"], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_unet_matches_the_released_network():
    weights, data = golden("golden_unet.npz")
    network = FlipUNet(16, 32, num_channels=32, channel_mult=(1, 2, 2, 2), num_res_blocks=1)
    load_weights(network, weights, "golden")
    flip = torch.sigmoid(network(data["z"], data["t"].long() + 1))
    torch.testing.assert_close(flip, data["flip_prob"], atol=1e-4, rtol=0)


def test_parameter_counts_and_keys_of_the_paper():
    unet = {key: tuple(value.shape) for key, value in FlipUNet().state_dict().items()}
    assert unet == released_shapes("unet")
    assert sum(np.prod(shape) for shape in unet.values()) == 36_034_432
    own = {key: tuple(value.shape) for key, value in BinaryAutoEncoder(norm_first=True).state_dict().items()}
    released = released_shapes("binary_autoencoder")
    unused = {key: shape for key, shape in released.items() if key not in own}
    assert all(released[key] == shape for key, shape in own.items())
    assert all(".conv_out." in key or ".logsigma." in key for key in unused)
    assert sum(np.prod(shape) for shape in released.values()) == 4_256_808
    assert sum(np.prod(shape) for shape in own.values()) == 4_256_808 - 153_092


@torch.inference_mode()
def test_clean_prediction_is_bayes_rule():
    process = BernoulliDiffusion()
    network = FlipUNet(8, 8, 32, (1, 2), 1, (), prediction="clean", noise_log_odds=process.noise_log_odds()).eval()
    bias = torch.randn(8)
    network.out[2].bias.data = bias
    z_t, t = torch.randint(0, 2, (3, 8, 8, 8)).float(), torch.tensor([1, 200, 1000])
    p_one = torch.sigmoid(bias)[None, :, None, None]
    e = ((1 - process.alpha_bar[t]) / 2).float()[:, None, None, None]
    joint_flip = torch.where(z_t == 1, (1 - p_one) * e, p_one * e)
    joint_same = torch.where(z_t == 1, p_one * (1 - e), (1 - p_one) * (1 - e))
    expected = joint_flip / (joint_flip + joint_same)
    torch.testing.assert_close(torch.sigmoid(network(z_t, t)), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("use_tanh", [False, True])
def test_gradient_passes_straight_through_the_bits(use_tanh):
    network = BinaryAutoEncoder(**{**GOLDEN_AUTOENCODER, "use_tanh": use_tanh})
    image, code, probability = network(torch.rand(2, 2, 32, 32), torch.rand(2, 16, 16, 16))
    assert set(code.unique().tolist()) <= {0.0, 1.0}
    assert probability.shape == code.shape == (2, 16, 16, 16)
    image.square().mean().backward()
    assert network.encoder.blocks[0].weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_weights_of_another_shape_are_listed():
    network = Discriminator(1)
    state = network.state_dict()
    state["blocks.0.weight"] = torch.zeros(64, 4, 4, 4)
    del state["blocks.0.bias"]
    state["extra"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        load_weights(network, state, "file.th")
    assert len(error.value.problems) == 3
    assert "(64, 1, 4, 4)" in str(error.value)


@torch.inference_mode()
def test_prepared_networks_give_what_autocast_gives():
    """Weights cast once are the weights that autocast casts in each call; the layout changes roundings only."""
    torch.manual_seed(0)
    network = FlipUNet(8, 8, 32, (1, 2), 1, (4,)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z_t, t = torch.randint(0, 2, (3, 8, 8, 8)).float(), torch.tensor([1, 200, 1000])
    exact = network(z_t, t)
    with autocast("bf16", z_t.device):
        before = network(z_t, t)
        after = prepare_inference(network, "bf16")(z_t, t)
    rounding = (before - exact).abs().max()
    assert (after - before).abs().max() <= 2 * rounding < 0.1 * exact.abs().max()
    assert network.out[2].weight.dtype == torch.bfloat16
    assert network.out[0].weight.dtype == torch.float32


def test_group_norm_has_the_same_gradient_in_both_layouts():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 8, 8)
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        norm, given = GroupNorm(32, 64), x.clone(memory_format=layout).requires_grad_(True)
        norm(given).pow(3).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


def test_fewer_groups_change_the_normalisation_and_not_the_weights():
    shape = {"img_size": 16, "n_channels": 1, "nf": 8, "ch_mult": (1, 2), "emb_dim": 12, "norm_first": True}
    torch.manual_seed(0)
    many, few = BinaryAutoEncoder(**shape), BinaryAutoEncoder(**shape, norm_groups=8)
    few.load_state_dict(many.state_dict())
    x = torch.rand(1, 1, 16, 16)
    assert not torch.allclose(many.encode(x), few.encode(x))
    groups = {(m.num_channels, m.num_groups) for m in few.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert groups == {(8, 8), (16, 8), (12, 4)}
