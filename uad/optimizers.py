"""Optimizers of all trainings: Adam, or Muon, which learns in far fewer steps."""

from collections import defaultdict

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adam", "muon")
MATRIX_LR = 0.02
MATRIX_LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
# Matrices with fewer rows or columns are left to Adam: the last layer, with a row per image channel.
LEAST_SIDE = 4
MOMENTUM = 0.95
ITERATIONS = 5
# Of the polynomial a x + b x^3 + c x^5 that, iterated, brings singular values in (0, 1] near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def make_optimizer(
    network: nn.Module,
    lr: float,
    name: str = "adam",
    weight_decay: float = 0.0,
    amp: str = "off",
) -> torch.optim.Optimizer:
    """The optimizer `name` (one of OPTIMIZERS) for a network; amp, the training's, is for muon only."""
    if name == "muon":
        return Muon(network, lr, MATRIX_LR, weight_decay, amp)
    return torch.optim.AdamW(network.parameters(), lr, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.AdamW):
    """Weights of convolutions and linear layers move by their orthogonalised momentum, all others by Adam.

    A weight is seen as a matrix of outputs x (inputs x kernel); its Nesterov momentum is replaced by the nearest
    semi-orthogonal matrix, times sqrt(max(1, rows / columns)) and `matrix_lr` (Jordan et al., "Muon: an optimizer for
    hidden layers in neural networks", 2024). amp: of the training: bf16, in which the orthogonalisation then computes,
    fp16 or off.
    """

    def __init__(self, network: nn.Module, lr: float, matrix_lr: float, weight_decay: float, amp: str):
        layers = [layer.weight for layer in network.modules() if isinstance(layer, MATRIX_LAYERS)]
        matrices = [weight for weight in layers if min(weight.flatten(1).shape) >= LEAST_SIDE]
        chosen = set(map(id, matrices))
        others = [parameter for parameter in network.parameters() if id(parameter) not in chosen]
        groups = [{"params": others, "lr": lr, "matrices": False}]
        if matrices:
            groups.append({"params": matrices, "lr": matrix_lr, "matrices": True})
        # In float16 not fused: that would unscale gradients by itself, for its own parameters only.
        kernel = {"foreach": True} if amp == "fp16" else {"fused": True}
        super().__init__(groups, betas=(0.9, 0.95), weight_decay=weight_decay, **kernel)
        self.dtype = torch.bfloat16 if amp == "bf16" else torch.float32
        # By shape: which weights, and their momenta, (weights, rows, columns), of which those in the state are parts.
        self._stacks: dict[torch.Size, tuple[list[int], Tensor]] = {}

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all weights that have a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["matrices"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["matrices"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in group["params"]:
            if weight.grad is not None:
                by_shape[weight.flatten(1).shape].append(weight)
        for (rows, columns), weights in by_shape.items():
            gradients = torch.stack([weight.grad.flatten(1) for weight in weights])
            momenta = self._momenta(weights)
            momenta.lerp_(gradients, 1 - MOMENTUM)
            ahead = gradients.lerp_(momenta, MOMENTUM)
            updates = orthogonalised(ahead.to(self.dtype)).to(ahead.dtype)
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            if group["weight_decay"]:
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            shaped = [update.view(weight.shape) for weight, update in zip(weights, updates, strict=True)]
            torch._foreach_add_(weights, shaped, alpha=-rate)

    def _momenta(self, weights: list[Tensor]) -> Tensor:
        """The momenta of weights of one shape, (weights, rows, columns), zero at first; the state has parts of it."""
        shape, which = weights[0].flatten(1).shape, list(map(id, weights))
        stacked, momenta = self._stacks.get(shape, (None, None))
        if stacked != which:
            former = [self.state[weight].get("momentum", torch.zeros_like(weight)) for weight in weights]
            momenta = torch.stack([momentum.flatten(1) for momentum in former])
            self._stacks[shape] = which, momenta
            for weight, momentum in zip(weights, momenta, strict=True):
                # Every state that AdamW restores has a step.
                step = self.state[weight].get("step", torch.zeros(()))
                self.state[weight] = {"step": step, "momentum": momentum.view(weight.shape)}
        for weight in weights:
            self.state[weight]["step"] += 1
        return momenta

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state; momenta are stacked anew."""
        super().load_state_dict(state_dict)
        self._stacks.clear()


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices (N, rows, columns) with their singular values brought near 1 (about 0.7 to 1.2); a zero stays zero."""
    a, b, c = COEFFICIENTS
    rows, columns = matrices.shape[1:]
    x = matrices.mT if rows > columns else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        # a x + (b gram + c gram^2) x, without passes over the matrices between the products.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if rows > columns else x
