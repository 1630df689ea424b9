"""The kernels pass Triton's compiler for a GPU that need not be there; its interpreter forgives what it does not."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# The signatures of real launches: everything is aligned, and integers that are 1 are constants, as Triton sees them.
COMPILE = '''
import sys
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from monai_iln.norms.backends import cuda, cuda_compiled
from monai_iln.norms.coefficients import BATCH, Mixture

ILN = Mixture([], 16, False, False, 1e-5, "sigmoid", False)
FOUR = ILN._replace(num_groups=0, gate="softmax", unbiased=True)
SWITCHABLE = FOUR._replace(blend_statistics=True)
PLANS = {
    "few": ((1, 2, 96 ** 3), False, torch.float32, (2, 1), ILN._replace(num_groups=2)),
    "one": ((4, 1, 96 ** 2), False, torch.float32, (1,), ILN._replace(num_groups=0)),
    "no space": ((5, 32), False, torch.float32, (32, 1), ILN),
    "2d": ((8, 32, 144 * 144), False, torch.float32, (32, 1), ILN),
    "small": ((8, 256, 17 * 17), False, torch.float32, (256, 1), ILN),
    "3d": ((2, 32, 128 ** 3), False, torch.float32, (32, 1), ILN),
    "channels last": ((8, 64, 64 * 64), True, torch.float32, (64, 1), ILN),
    "half": ((8, 64, 64 * 64), False, torch.float16, (64, 1), ILN),
    "bfloat": ((8, 64, 64 * 64), True, torch.bfloat16, (64, 1), ILN),
    "double": ((8, 64, 64 * 64), False, torch.float64, (64, 1), ILN),
    "2048 channels": ((2, 2048, 16), False, torch.float32, (2048, 1), ILN),
    "per channel": ((8, 64, 64 * 64), False, torch.float32, (BATCH, 64), FOUR._replace(gate="clip", per_channel=True)),
    "four": ((8, 64, 64 * 64), False, torch.float32, (64, 1, BATCH, 4), FOUR),
    "switchable": ((8, 64, 64 * 64), False, torch.float32, (64, 1, BATCH), SWITCHABLE),
}
ELEMENTS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
ALIGNED = [["tt.divisibility", 16]]

def build(launch, components, element, capability, table="fp64", parameter="fp32"):
    kernel, names = launch.kernel, launch.kernel.arg_names
    tensors = len(names) - len(launch.arguments)
    signature, constants, attributes = {}, {}, {}
    for number, name in enumerate(names):
        absent = name in ("running_mean", "running_var") or (name.endswith("rho") and len(components) == 1)
        if number < tensors and absent:
            signature[name], constants[(number,)] = "constexpr", None
            continue
        if number < tensors:
            kind = parameter if name.removeprefix("grad_") in ("rho", "weight", "bias") else table
            signature[name] = "*" + (element if name in ("x", "y", "grad", "grad_x") else kind)
            attributes[(number,)] = ALIGNED
            continue
        value = launch.arguments[number - tensors]
        if kernel.params[number].is_constexpr or (type(value) is int and value == 1):
            signature[name], constants[(number,)] = "constexpr", value
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(number,)] = ALIGNED
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": launch.warps})

for name, (shape, last, dtype, components, mixture) in PLANS.items():
    single = torch.float32
    dtypes = (dtype, None if len(components) == 1 else single, single, single, None, None)
    plan = cuda.make_plan(torch.Size(shape), last, dtypes, mixture._replace(components=components))
    for launch in plan:
        if isinstance(launch, cuda.Launch):
            compiled = build(launch, components, ELEMENTS[dtype], int(sys.argv[1]))
            print(name, launch.kernel.__name__, "compiled")
            if len(sys.argv) > 2:
                from pathlib import Path
                Path(sys.argv[2], f"{name}-{launch.kernel.__name__}.cubin").write_bytes(compiled.asm["cubin"])

class Built:
    """A kernel that is built where torch.compile would launch it: tables in float32, parameters in bfloat16."""
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        def build_instead(*arguments, num_warps=4):
            tensors = sum(argument is None or isinstance(argument, torch.Tensor) for argument in arguments)
            launch = cuda.Launch(self.kernel, grid, *arguments[tensors:], warps=num_warps)
            build(launch, mixture.components, "bf16", int(sys.argv[1]), "fp32", "bf16")
            print(self.kernel.__name__, "compiled")
        return build_instead

cuda_compiled.wrap_triton = Built
for mixture in (ILN._replace(components=[64, 1]), FOUR._replace(components=[64, 1, BATCH, 4])):
    rho = torch.zeros(len(mixture.components), 1) if mixture.gate == "softmax" else torch.zeros(1)
    x = torch.zeros(2, 64, 4, 4, requires_grad=True)
    cuda_compiled.forward(x, rho, torch.ones(64), torch.zeros(64), None, None, mixture)[0].sum().backward()
'''


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton: pip install triton")
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, "80"], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("compiled") == 14 * 6 + 3 * 2 + 3 + 4
