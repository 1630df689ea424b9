"""Compilation of the CPU kernels by numba, once a machine, and the OpenMP library that runs them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import torch

from monai_iln.norms.backends import cpu_kernels

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
# By the names under which the kernels know them.
_FUNCTIONS = {
    "monai_iln_barrier": "GOMP_barrier",
    "monai_iln_thread_number": "omp_get_thread_num",
    "monai_iln_team_size": "omp_get_num_threads",
}


def find_openmp() -> Any:
    """The OpenMP library that torch runs on, or ``None``: then one thread does everything.

    GCC's way in, ``GOMP_parallel``, is there in LLVM's and Intel's library too.
    """
    # What torch itself calls is found in this order: what all libraries see (also one that is preloaded), its own.
    for name in (None, torch._C.__file__):
        try:
            library = ctypes.CDLL(name)
            functions = [getattr(library, function) for function in ("GOMP_parallel", *_FUNCTIONS.values())]
        except (OSError, AttributeError, TypeError):  # TypeError: Windows knows no library None
            continue
        functions[0].argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        functions[0].restype = None
        return library
    return None


def _link(library: Any) -> None:
    """Make OpenMP's functions known to the linker; without OpenMP nobody calls them, but they must exist."""
    for ours, theirs in _FUNCTIONS.items():
        function = getattr(library or ctypes.pythonapi, theirs if library else "Py_IsInitialized")
        llvmlite.binding.add_symbol(ours, ctypes.cast(function, ctypes.c_void_p).value)


@functools.cache
def build(name: str, dtype: torch.dtype, interleaved: bool) -> Any:
    """A kernel, ``"forward"`` or ``"backward"``, for maps of a dtype and layout.

    Compiled at the first use on a machine, in a few seconds, and afterwards loaded from numba's cache. That lies beside
    the sources, in the user's cache where those are read-only, or in ``NUMBA_CACHE_DIR``.
    """
    kernel = getattr(cpu_kernels, f"make_{name}")(DTYPES[dtype], interleaved, _fingerprint())
    compiler = numba.cfunc("void(voidptr)", cache=True)
    try:
        return compiler(kernel)
    except RuntimeError as error:
        if "no locator" not in str(error):
            raise
        return numba.cfunc("void(voidptr)")(kernel)  # there is no folder to write to


@functools.cache
def _fingerprint() -> str:
    """A hash of the sources: numba's cache looks at the time of one file, and not at those that it imports."""
    sources = sorted(Path(__file__).parent.glob("cpu_*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


OPENMP = find_openmp()
_link(OPENMP)
