"""Muon: what it does to a matrix, which weights it takes, and that it resumes and skips like any optimizer."""

import copy

import pytest
import torch
from torch import nn

from binary_autoencoder.networks import BinaryAutoEncoder
from uad.optimizers import Muon, make_optimizer, orthogonalised


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 6))


def muon(network: nn.Module, weight_decay: float = 0.0) -> Muon:
    return make_optimizer(network, 1e-3, "muon", weight_decay)


def backward(network: nn.Module, factor: float = 1.0, seed: int = 0) -> None:
    network.zero_grad()
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    (factor * network(images).square().mean()).backward()


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    u, _, vh = torch.linalg.svd(torch.randn(2, *shape, dtype=torch.float64), full_matrices=False)
    values = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)
    found = u.mT @ orthogonalised(u @ torch.diag(values) @ vh) @ vh.mT
    diagonal = found.diagonal(dim1=1, dim2=2)
    assert float(diagonal.min()) > 0.6 and float(diagonal.max()) < 1.3
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-9, rtol=0)


def test_a_zero_gradient_moves_nothing_but_what_decays():
    assert float(orthogonalised(torch.zeros(1, 4, 4)).abs().max()) == 0
    network = small_network()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = muon(network, weight_decay=0.5)
    backward(network, factor=0.0)
    optimizer.step()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for old, new in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - rates[id(new)] * 0.5), atol=1e-7, rtol=0)


def test_the_step_of_a_matrix_has_the_learning_rate_s_size_whatever_the_gradient_s():
    moved = []
    for factor in (1.0, 1000.0):
        network = small_network()
        before = network[2].weight.detach().clone()
        backward(network, factor)
        muon(network).step()
        moved.append(before - network[2].weight.detach())
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=1e-3)
    values = torch.linalg.svdvals(moved[0].flatten(1) / 0.02)
    assert 0.6 < float(values.max()) < 1.3


def test_every_parameter_has_one_optimizer_and_embeddings_norms_biases_and_the_last_layer_have_adam():
    network = BinaryAutoEncoder(img_size=32, n_channels=1, nf=8, ch_mult=(1, 2), emb_dim=16, codebook_size=8)
    adam, matrices = (group["params"] for group in muon(network).param_groups)
    assert sorted(map(id, [*adam, *matrices])) == sorted(map(id, network.parameters()))
    names = {id(p): name for name, p in network.named_parameters()}
    assert {names[id(p)] for p in matrices} > {"encoder.blocks.0.weight", "quantize.proj.0.weight"}
    left = {names[id(p)] for p in adam}
    assert {"quantize.embed.weight", "generator.blocks.0.bias"} < left
    assert [name for name in left if name.endswith("weight") and "norm" not in name and "blocks" in name] != []
    assert names[id(network.generator.last_layer)] in left


def test_layers_of_one_shape_are_updated_as_each_alone():
    together, alone = small_network(), small_network()
    together.append(nn.Linear(6, 6)).append(nn.Linear(6, 6))
    backward(together)
    for layer in (5, 6):
        twin = nn.Linear(6, 6)
        twin.load_state_dict(together[layer].state_dict())
        twin.weight.grad, twin.bias.grad = (p.grad.clone() for p in together[layer].parameters())
        alone.append(twin)
    muon(together).step()
    for layer in (5, 6):
        muon(alone[layer]).step()
        torch.testing.assert_close(alone[layer].weight, together[layer].weight, atol=1e-6, rtol=0)


def test_a_restored_state_continues_bit_for_bit():
    network = small_network()
    optimizer = muon(network)
    for seed in range(2):
        backward(network, seed=seed)
        optimizer.step()
    twin = small_network()
    twin.load_state_dict(network.state_dict())
    restored = muon(twin)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its in ((network, optimizer), (twin, restored)):
        backward(each, seed=2)
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), twin.parameters(), strict=True))


def test_an_overflow_skips_the_step_of_all_weights():
    network = small_network()
    optimizer, scaler = make_optimizer(network, 1e-3, "muon", amp="fp16"), torch.amp.GradScaler("cpu", init_scale=4.0)
    before = [p.detach().clone() for p in network.parameters()]
    backward(network)
    network[1].bias.grad[0] = torch.inf
    scaler.scale(torch.zeros(()))  # a scaler begins with its first loss
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() < 4
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
