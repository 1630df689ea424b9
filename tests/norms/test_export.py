"""The layer outside of Python: scripted, traced and exported, and run at other sizes than it was exported at."""

import io

import onnx
import onnxruntime
import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_iln import ILN

pytestmark = [
    # torch's own: the exporter that goes by TorchScript is deprecated as a whole, and one of its helpers once more.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning:torch.onnx"),
    # torch's own: the exporter that goes by torch.export copies tree specifications that torch has deprecated.
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
]

# Runtimes have been wrong about these (TensorRT takes a group norm with one group for an instance norm), and rightly
# see none of them in ILN, which is sums and products.
NORM_OPERATORS = {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LayerNormalization"}


def layer(**arguments):
    module = ILN(8, **{"num_groups": 4} | arguments).eval()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.2, 0.8)
    return module


def unet():
    norm = ("ILN", {"num_groups": 4})
    return UNet(2, 1, 2, channels=(8, 16), strides=(2,), num_res_units=1, norm=norm).eval()


# A module, its input, and inputs of other batch and image sizes.
CASES = {
    "layer 2d": (layer, (2, 8, 16, 16), [(3, 8, 20, 12), (1, 8, 7, 9)]),
    "layer 3d": (layer, (2, 8, 4, 4, 4), [(3, 8, 5, 6, 7), (1, 8, 3, 3, 3)]),
    "no groups": (lambda: layer(num_groups=None), (2, 8, 16, 16), [(3, 8, 20, 12)]),
    "clip": (lambda: layer(gate="clip"), (2, 8, 16, 16), [(3, 8, 20, 12)]),
    "softmax": (lambda: layer(gate="softmax", gate_scope="channel"), (2, 8, 16, 16), [(3, 8, 20, 12)]),
    "no affine": (lambda: layer(affine=False), (2, 8, 16, 16), [(3, 8, 20, 12)]),
    "UNet": (unet, (2, 1, 16, 16), [(3, 1, 24, 40), (1, 1, 16, 32)]),
}
cases = pytest.mark.parametrize(("make", "shape", "others"), CASES.values(), ids=CASES)


def dynamic(shape):
    """The axes that may have another size at run time: all but the channels."""
    return [axis for axis in range(len(shape)) if axis != 1]


def check(function, module, shapes, tolerance=0.0):
    for shape in shapes:
        # Channels of other means and scales, or the parts of the blend would nearly agree.
        channels = torch.linspace(0.5, 2, shape[1]).view(1, -1, *[1] * (len(shape) - 2))
        x = channels * (torch.randn(shape, generator=torch.Generator().manual_seed(0)) + channels)
        with torch.no_grad():
            torch.testing.assert_close(function(x), module(x), rtol=tolerance, atol=tolerance)


def check_onnx(model, module, shapes):
    onnx.checker.check_model(model, full_check=True)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    assert not NORM_OPERATORS & {node.op_type for node in nodes}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    check(lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), module, shapes, tolerance=1e-5)


@cases
def test_script(make, shape, others):
    module = make()
    check(torch.jit.script(module), module, [shape, *others], tolerance=1e-5)


@cases
def test_trace(make, shape, others):
    module = make()
    check(torch.jit.trace(module, torch.randn(shape)), module, [shape, *others], tolerance=1e-5)


@cases
def test_torch_export(make, shape, others):
    module = make()
    axes = dict.fromkeys(dynamic(shape), torch.export.Dim.AUTO)
    program = torch.export.export(module, (torch.randn(shape),), dynamic_shapes=(axes,))
    check(program.module(), module, [shape, *others], tolerance=1e-5)


@cases
def test_onnx_by_torchscript(make, shape, others):
    module, file = make(), io.BytesIO()
    axes = {axis: f"size{axis}" for axis in dynamic(shape)}
    torch.onnx.export(
        module,
        (torch.randn(shape),),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": axes, "y": axes},
    )
    check_onnx(onnx.load_from_string(file.getvalue()), module, [shape, *others])


@pytest.mark.slow
@cases
def test_onnx_by_torch_export(make, shape, others):
    module = make()
    axes = dict.fromkeys(dynamic(shape), torch.export.Dim.AUTO)
    program = torch.onnx.export(
        module, (torch.randn(shape),), dynamo=True, input_names=["x"], dynamic_shapes=(axes,), verbose=False
    )
    check_onnx(program.model_proto, module, [shape, *others])
