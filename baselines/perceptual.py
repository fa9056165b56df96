"""Where two images differ to the eye of a network: the spatial LPIPS map with a SqueezeNet or AlexNet trunk.

Zhang et al., "The unreasonable effectiveness of deep features as a perceptual metric", CVPR 2018. The `lpips` package
ships the learned heads; the trunk is torchvision's SqueezeNet 1.1 or AlexNet, trained on ImageNet. Nothing is
downloaded.
"""

from pathlib import Path
from warnings import catch_warnings, simplefilter

from lpips import LPIPS
from torch import Tensor, nn
from torchvision.models import alexnet, squeezenet1_1

from uad.checkpoints import load_checkpoint
from uad.weights import load_weights

SQUEEZENET_FILE = "squeezenet1_1-b8a52dc0.pth"
FEATURES = "features."
# The first convolution of AlexNet's, by which its weights are told from SqueezeNet's.
ALEXNET_KEY, ALEXNET_SHAPE = f"{FEATURES}0.weight", (64, 3, 11, 11)


class LpipsMap(nn.Module):
    """Spatial LPIPS, summed over the network's layers and averaged over modalities.

    Each channel is shown to the network as a grey image, so that any number of channels works. weights: a state dict of
    torchvision's SqueezeNet 1.1, which the released AutoDDPM uses, or AlexNet; what does not begin with "features."
    is not needed. double_scaling: bring intensities from [0, 1] to [-1, 1] twice, so that they end in [-3, 1] as in the
    released AutoDDPM. `.trunk` names the network. Raises InputError for a missing, damaged or unfitting file.
    """

    def __init__(self, weights: Path, double_scaling: bool = False):
        super().__init__()
        state = load_checkpoint(weights)
        is_alexnet = getattr(state.get(ALEXNET_KEY), "shape", None) == ALEXNET_SHAPE
        self.trunk, build = ("AlexNet", alexnet) if is_alexnet else ("SqueezeNet", squeezenet1_1)
        features = build(weights=None).features
        trained = {key.removeprefix(FEATURES): value for key, value in state.items() if key.startswith(FEATURES)}
        load_weights(features, trained, weights)
        # With pnet_rand the package leaves the trunk as it is initialised; otherwise it would download one.
        with catch_warnings():
            # The package asks torchvision for the trunk by arguments that torchvision is about to drop.
            simplefilter("ignore", UserWarning)
            network = LPIPS(net="alex" if is_alexnet else "squeeze", spatial=True, pnet_rand=True, verbose=False)
        for number in range(1, network.net.N_slices + 1):
            for index, layer in getattr(network.net, f"slice{number}").named_children():
                layer.load_state_dict(features[int(index)].state_dict())
        self.network = network.eval().requires_grad_(False)
        self.double_scaling = double_scaling

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """(N, C, S, S) in [0, 1], twice -> (N, S, S), non-negative; 0 where the images agree far around."""
        maps = self.network(self._shown(first), self._shown(second))
        return maps.reshape(first.shape).mean(1)

    def _shown(self, image: Tensor) -> Tensor:
        grey = 2 * image.float().reshape(-1, 1, *image.shape[-2:]) - 1
        return 2 * grey - 1 if self.double_scaling else grey
