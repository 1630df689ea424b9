"""``monai-iln benchmark``: what a norm costs, measured beside its rivals."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from monai_iln.commands.options import COUNT, describe
from monai_iln.limits import Limits

_CONTESTANTS = "none, instance, group16, batch, composed, four, ILN, 'instance compiled', 'ILN compiled'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the three benchmarks as subcommands; what they leave in ``run`` is to be called with the result."""
    describe(
        parser,
        "Time norms against one another, interleaved in one run, and report paired ratios.",
        "monai-iln benchmark network --network paper_unet --batch 1 4 --output speed",
        "monai-iln benchmark layer --shape 8 32 144 144 --contestants instance ILN",
    )
    benchmarks = parser.add_subparsers(required=True, metavar="BENCHMARK")
    layer = benchmarks.add_parser("layer", help="forward and backward of one layer")
    describe(
        layer,
        "Time forward and backward of one layer.",
        "monai-iln benchmark layer --shape 8 32 144 144 --contestants instance ILN --output speed",
    )
    layer.add_argument("--shape", action="append", **_shape("a map of the paper's U-Net and others"))
    _add_contestants(layer)
    _add_common(layer, rounds=50)
    layer.set_defaults(run=_runner("run_layers"))
    network = benchmarks.add_parser("network", help="a training step: forward, loss, backward, optimizer")
    describe(
        network,
        "Time a training step of whole networks: forward, loss, backward, optimizer.",
        "monai-iln benchmark network --network paper_unet --batch 1 --seconds 120",
    )
    network.add_argument(
        "--network", nargs="+", metavar="NAME", help="the networks to train: paper_unet, unet3d (default: both)"
    )
    network.add_argument(
        "--batch", nargs="+", type=COUNT, metavar="N", help="the batch sizes (default: 1 and 4 in 2-D, 1 in 3-D)"
    )
    network.add_argument(
        "--size", type=COUNT, metavar="N", help="the length of every spatial axis (default: 256 in 2-D, 96 in 3-D)"
    )
    _add_contestants(network)
    _add_common(network, rounds=20)
    network.set_defaults(run=_runner("run_networks"))
    profile = benchmarks.add_parser("profile", help="where the time of one layer goes")
    describe(
        profile,
        "Print the operators that take most of a layer's time.",
        "monai-iln benchmark profile --contestant ILN --shape 8 32 144 144",
    )
    profile.add_argument("--shape", **_shape("8 32 144 144"))
    profile.add_argument("--contestant", default="ILN", metavar="NAME", help="the norm to look into (default: ILN)")
    _add_common(profile, rounds=10)
    profile.set_defaults(run=_runner("run_profile"))


def _shape(default: str) -> dict[str, Any]:
    meaning = f"the batch, the channels and one to three spatial lengths (default: {default})"
    return {"nargs": "+", "type": COUNT, "metavar": "N", "help": meaning}


def _add_contestants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--contestants", nargs="+", metavar="NAME", help=f"the norms to compare (default: {_CONTESTANTS})"
    )
    parser.add_argument(
        "--seconds",
        type=Limits(0, whole=False, open=True),
        help="the budget of all timed rounds together; each setting gets its share, and ends early when it is used up",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="the folder to make, for benchmark.json and .png")


def _add_common(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument("--device", default="cpu", help="the device: cpu, cuda or cuda:1 (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        default="float32",
        help="the type of the input; half precision runs under autocast, with parameters in float32 (default: float32)",
    )
    parser.add_argument(
        "--memory-format",
        choices=("contiguous", "channels_last"),
        default="contiguous",
        help="the memory format of the input and the weights (default: contiguous)",
    )
    parser.add_argument(
        "--threads",
        type=Limits(1, 4096),
        metavar="N",
        help="the threads of torch on the CPU (default: what torch takes)",
    )
    parser.add_argument(
        "--rounds", type=COUNT, default=rounds, metavar="N", help=f"the number of timed rounds (default: {rounds})"
    )
    parser.add_argument(
        "--warmup", type=Limits(0), default=3, metavar="N", help="the number of rounds before them (default: 3)"
    )


def _runner(name: str) -> Callable[[argparse.Namespace], None]:
    def run(options: argparse.Namespace) -> None:
        from monai_iln.benchmark import require_drawing

        require_drawing()
        from monai_iln.benchmark import suites

        getattr(suites, name)(options)

    return run
