"""Where two images differ to the eye of a network: the spatial LPIPS map with a SqueezeNet trunk.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018. The `lpips` package
ships the learned heads; the trunk is torchvision's SqueezeNet 1.1 trained on ImageNet. Nothing is downloaded.
"""

from pathlib import Path

import torch
from lpips import LPIPS
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

from uad.checkpoints import load_checkpoint, load_weights

SQUEEZENET_FILE = "squeezenet1_1-b8a52dc0.pth"


def find_squeezenet_weights(path: str | Path | None) -> Path | None:
    """The trunk's weights: `path` if given, else torchvision's file in torch's hub cache, else None."""
    candidate = Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / SQUEEZENET_FILE
    return candidate if path or candidate.is_file() else None


class LpipsMap(nn.Module):
    """Spatial LPIPS, summed over the network's seven layers and averaged over modalities.

    Each channel is shown to the network as a grey image, so that any number of channels works. weights: a state dict of
    torchvision's SqueezeNet 1.1. double_scaling: bring intensities from [0, 1] to [-1, 1] twice, so that they end in
    [-3, 1] as in the released AutoDDPM. Raises InputError for a missing, damaged or unfitting file.
    """

    def __init__(self, weights: Path, double_scaling: bool = False):
        super().__init__()
        trunk = squeezenet1_1(weights=None)
        load_weights(trunk, load_checkpoint(weights), weights)
        # With pnet_rand the package leaves the trunk as it is initialised; otherwise it would download one.
        network = LPIPS(net="squeeze", spatial=True, pnet_rand=True, verbose=False)
        for number in range(1, network.net.N_slices + 1):
            for index, layer in getattr(network.net, f"slice{number}").named_children():
                layer.load_state_dict(trunk.features[int(index)].state_dict())
        self.network = network.eval().requires_grad_(False)
        self.double_scaling = double_scaling

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(N, C, S, S) in [0, 1], twice -> (N, S, S), non-negative; 0 where the images agree far around."""
        maps = self.network(self._shown(first), self._shown(second))
        return maps.reshape(first.shape).mean(1)

    def _shown(self, image: Tensor) -> Tensor:
        grey = 2 * image.float().reshape(-1, 1, *image.shape[-2:]) - 1
        return 2 * grey - 1 if self.double_scaling else grey
