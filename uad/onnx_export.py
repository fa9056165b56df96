"""Networks as ONNX files for other runtimes. A file gets its name once onnxruntime gives with it what PyTorch gives.

The tracing exporter is used: for networks without control flow it takes a tenth of the time of the one by
`torch.export`, and needs no further package.
"""

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from uad.errors import input_error
from uad.files import written_whole

PACKAGES = ("onnx", "onnxruntime")
# The version of the operators, which onnxruntime has had since 1.14.
OPSET = 18
# The largest difference to PyTorch, as a share of the largest value, or of 1 where that is smaller.
TOLERANCE = 1e-4
# A graph is traced with two images; others show whether it holds for any number.
TRACED, CHECKED = 2, (1, 3)


class _Pass(nn.Module):
    """A function of a network as a module: its weights and what is called."""

    def __init__(self, network: nn.Module, function: Callable[..., Tensor]):
        super().__init__()
        self.network, self.function = network, function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def check_packages() -> None:
    """InputError where the packages of the extra `onnx` are not installed."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise input_error(
                "ONNX export", f"{name} is not installed", " and ".join(PACKAGES), "pip install '.[onnx]'"
            ) from error


def export_network(
    path: Path, network: nn.Module, function: Callable[..., Tensor], inputs: Mapping[str, Tensor], output: str
) -> None:
    """Write `function` of a network in evaluation mode, with its weights, as an ONNX file for any batch size.

    inputs: by name in the function's order, examples (N, ...), float32 or int64, N = max(CHECKED) or more, on which the
    file is compared with PyTorch; output: name of the result. Raises InputError where the network has something that
    ONNX has not, or where the file gives something else than the network.
    """
    traced = tuple(each[:TRACED] for each in inputs.values())
    with written_whole(path) as temporary:
        try:
            with warnings.catch_warnings(), torch.no_grad():
                # Of the exporter's age, and of shapes that became constants: what these break, the check finds.
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    _Pass(network, function).eval(),
                    traced,
                    str(temporary),
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=list(inputs),
                    output_names=[output],
                    dynamic_axes={name: {0: "N"} for name in (*inputs, output)},
                )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise input_error(
                path, f"cannot be exported: {reason}", "a network of ONNX operators", "use PyTorch for this model"
            ) from error
        with torch.inference_mode():
            _name_shape(temporary, function(*traced).shape)
        for count in CHECKED:
            _check_same(path, temporary, function, {name: each[:count] for name, each in inputs.items()})


def _name_shape(file: Path, shape: torch.Size) -> None:
    """State the shape of the output, all but the batch: the exporter's own guess at it has wrong names."""
    import onnx

    model = onnx.load(file)
    dimensions = model.graph.output[0].type.tensor_type.shape.dim
    for dimension, size in zip(list(dimensions)[1:], shape[1:], strict=True):
        dimension.dim_value = size
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _check_same(path: Path, file: Path, function: Callable[..., Tensor], inputs: Mapping[str, Tensor]) -> None:
    """InputError, naming `path`, unless onnxruntime gives with the file what the function gives."""
    import onnxruntime

    with torch.inference_mode():
        expected = function(*inputs.values())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: each.numpy() for name, each in inputs.items()})
    shape = tuple(expected.shape)
    difference = float((torch.from_numpy(found) - expected).abs().max()) if found.shape == shape else float("inf")
    # Written so that a difference that is no number fails, too.
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise input_error(
            path,
            f"onnxruntime differs from PyTorch by {difference:.2g} on {len(found)} images",
            f"at most {TOLERANCE:g} of the largest value",
            "use PyTorch for this model, or other versions of torch and onnxruntime",
        )
