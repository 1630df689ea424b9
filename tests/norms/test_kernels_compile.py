"""The kernels pass Triton's compiler for a GPU that need not be there; its interpreter forgives what it does not."""

import importlib.util
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# The signatures of real launches: pointers to the input, to tables, and constants. All else is a 32-bit integer.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from monai_iln.norms.backends import cuda_kernels as kernels

def build(kernel, pointers, constants):
    signature = {name: pointers.get(name, "constexpr" if name in constants else "i32") for name in kernel.arg_names}
    source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): value for name, value in constants.items()})
    triton.compile(source, target=GPUTarget("cuda", 80, 32))
    print(kernel.__name__)

TABLES = ("mean mean_out variance variance_out means variances slope offset slope_out offset_out sums dots sums_out "
          "dots_out per_deviation per_deviation_out shift shift_out rows_out mix weight bias").split()
for element in ("fp32", "fp16", "bf16", "fp64"):
    pointers = dict.fromkeys(TABLES, "*fp64") | dict.fromkeys(("x", "y", "grad", "grad_x"), "*" + element)
    acc = triton.language.float64 if element == "fp64" else triton.language.float32
    for block_c, block_s in ((1, 2048), (64, 32)):
        tiles = {"ACC": acc, "BLOCK_C": block_c, "BLOCK_S": block_s}
        for kernel in (kernels.statistics, kernels.apply, kernels.sums, kernels.input_gradient):
            build(kernel, pointers, tiles)
build(kernels.merge, pointers, {"BLOCK": 128})
for then in (True, False):
    constants = {"EPS": 1e-5, "UNBIASED_IN": 1.0, "UNBIASED_LN": 1.0, "THEN": then, "BLOCK_G": 16, "BLOCK_K": 4}
    for missing in ({}, {"weight": None, "bias": None}):
        present = {name: kind for name, kind in pointers.items() if name not in missing}
        build(kernels.coefficients, present, constants | missing)
        missing = {name: None for name in missing if name == "weight"}
        build(kernels.coefficients_backward, present, constants | missing)
"""


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs triton: pip install triton")
def test_every_kernel_compiles_for_a_gpu(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("\n") == 4 * 2 * 4 + 1 + 2 * 2 * 2
