"""The three benchmarks of ``monai-iln benchmark``, from parsed options to printed tables and files."""

from __future__ import annotations

import argparse
import datetime
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity
from tqdm import tqdm

from monai_iln.benchmark.contestants import DEFAULTS, find_contestants
from monai_iln.benchmark.measure import quiet_profile
from monai_iln.benchmark.plot import save_plot
from monai_iln.benchmark.records import COPY, Setting
from monai_iln.benchmark.report import document, table
from monai_iln.benchmark.run import failure, run_setting
from monai_iln.benchmark.work import NETWORKS, Platform, layer_work, network_work
from monai_iln.errors import UserError, check_keys, require
from monai_iln.errors import count as told
from monai_iln.files import new_folder, write_json
from monai_iln.machine import describe_commit, describe_machine, describe_versions, load_average

# A small, a middling and a large map of the paper's U-Net, and one of a 3-D network.
SHAPES = ((8, 256, 16, 16), (8, 64, 64, 64), (8, 32, 144, 144), (1, 32, 48, 48, 48))
FLOOR_TENSORS = {"forward": 3, "backward": 5, "forward+backward": 8, COPY: 2}


def run_layers(options: argparse.Namespace) -> None:
    """``benchmark layer``."""
    shapes = [tuple(shape) for shape in options.shape or SHAPES]
    platform = _platform(options)
    contestants = find_contestants(options.contestants or DEFAULTS)

    def measure(shape: Sequence[int], **how: Any) -> Setting:
        with _fits(f"shape {_times(shape)}"):
            make, copy = layer_work(shape, platform)
        size = math.prod(shape) * platform.dtype.itemsize
        return run_setting(
            f"layer {_times(shape)}",
            contestants,
            make,
            platform.device,
            copy=copy,
            tensor_bytes=size,
            floor_tensors=FLOOR_TENSORS,
            **how,
        )

    for shape in shapes:
        _check_shape(shape, platform)
    _run("layer", options, platform, shapes, measure)


def run_networks(options: argparse.Namespace) -> None:
    """``benchmark network``."""
    platform = _platform(options)
    contestants = find_contestants(options.contestants or DEFAULTS)
    cases = []
    for name in dict.fromkeys(options.network or NETWORKS):
        check_keys([name], NETWORKS, "network of the benchmark")
        network = NETWORKS[name]
        size = network.size if options.size is None else options.size
        multiple = network.multiple
        require(
            size % multiple == 0,
            f"size {size}",
            f"{name} takes multiples of {multiple}",
            f"choose {max(1, round(size / multiple)) * multiple}",
        )
        for batch in options.batch or network.batches:
            cases.append((name, batch, size))

    def measure(case: tuple[str, int, int], **how: Any) -> Setting:
        name, batch, size = case
        with _fits(f"{name} with batch {batch} and size {size}"):
            make, _ = network_work(name, batch, size, platform)
        lengths = "x".join([str(size)] * NETWORKS[name].spatial_dims)
        return run_setting(f"{name}, batch {batch}, {lengths}", contestants, make, platform.device, **how)

    _run("network", options, platform, cases, measure)


def run_profile(options: argparse.Namespace) -> None:
    """``benchmark profile``: the fifteen operators that take most of a layer's time."""
    platform = _platform(options)
    shape = tuple(options.shape or SHAPES[2])
    _check_shape(shape, platform)
    (contestant,) = find_contestants([options.contestant])
    with _threads(options.threads):
        with _fits(f"shape {_times(shape)}"):
            make, _ = layer_work(shape, platform)
        try:
            phases = make(contestant)
            for function in list(phases.values()) * (1 + options.warmup):
                function()
        except Exception as error:  # compilers, and devices out of memory, raise nearly anything
            raise UserError(
                f"{contestant.name} cannot run here ({failure(error)}). Choose another contestant."
            ) from error
        activities = [ProfilerActivity.CPU]
        if platform.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with quiet_profile(activities=activities) as profiler:
            for function in list(phases.values()) * options.rounds:
                function()
        print(f"{contestant.name}, {_times(shape)}, {_how(options)}: {options.rounds} times forward and backward")
        print(profiler.key_averages().table(f"self_{platform.device.type}_time_total", row_limit=15))


def _run(
    benchmark: str,
    options: argparse.Namespace,
    platform: Platform,
    cases: Sequence[Any],
    measure: Callable[..., Setting],
) -> None:
    """Measure case after case, print, and write what is to be written."""
    seconds = None if options.seconds is None else options.seconds / len(cases)
    report: dict[str, Any] = {"benchmark": benchmark, "options": _plain(options)}
    if options.output:
        with new_folder(options.output):
            pass  # an empty one, which may be filled later: what is wrong with it is known now and not after an hour
    with _threads(options.threads):
        report |= {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": describe_machine(platform.device),
            "versions": describe_versions(),
            "commit": describe_commit(),
            "load_average": {"before": load_average()},
        }
        settings = []
        with tqdm(total=len(cases) * options.rounds, unit="round") as bar:
            for number, case in enumerate(cases, 1):
                setting = measure(
                    case,
                    rounds=options.rounds,
                    warmup=options.warmup,
                    seconds=seconds,
                    tick=bar.update,
                    tell=bar.set_description,
                )
                bar.update(number * options.rounds - bar.n)  # where the seconds were over before the rounds
                settings.append(setting)
                bar.write(f"{table(setting)}\n")
        report["load_average"]["after"] = load_average()
        report["settings"] = [document(setting) for setting in settings]
        caption = _caption(options, report)
    print(caption)
    before, cores = report["load_average"]["before"], report["machine"]["usable_cores"]
    if before is not None and before[0] > cores / 2:
        print(f"The machine was busy before ({before[0]} on {cores} cores): trust minima and paired ratios at most.")
    if options.output:
        with new_folder(options.output) as folder:
            write_json(folder / "benchmark.json", report)
            save_plot(settings, caption, folder / "benchmark.png")
        print(f"{options.output}: benchmark.json and benchmark.png")


def _platform(options: argparse.Namespace) -> Platform:
    """The device and the type of numbers, checked."""
    try:
        device = torch.device(options.device)
    except RuntimeError as error:
        raise UserError(f"device {options.device!r}: torch knows no such device. Choose cpu or cuda.") from error
    known = device.type in ("cpu", "cuda")
    require(known, f"device {options.device!r}", "only two kinds can be timed", "choose cpu or cuda")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        require(
            (device.index or 0) < count,
            f"device {options.device!r}",
            f"torch sees {told(count, 'CUDA device')} here",
            "choose --device cpu, or run it where there is a GPU and a torch built for it",
        )
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # events are recorded on the current one
    return Platform(device, getattr(torch, options.dtype), options.memory_format == "channels_last")


def _check_shape(shape: Sequence[int], platform: Platform) -> None:
    got = f"shape {_times(shape)}"
    require(
        3 <= len(shape) <= 5,
        got,
        "it holds batch, channels and one to three spatial lengths",
        "give for example --shape 8 32 144 144",
    )
    require(math.prod(shape[2:]) > 1, got, "a norm over one position is zero", "choose larger spatial lengths")
    require(
        len(shape) > 3 or not platform.channels_last,
        got,
        "channels_last needs two or three spatial axes",
        "leave --memory-format out",
    )


@contextmanager
def _fits(got: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"{got}: there is no memory for its input alone. Choose a smaller one.") from error


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _how(options: argparse.Namespace) -> str:
    return f"{options.device}, {options.dtype}, {options.memory_format}, {torch.get_num_threads()} threads"


def _caption(options: argparse.Namespace, report: dict[str, Any]) -> str:
    machine, commit, load = report["machine"], report["commit"], report["load_average"]
    revision = ""
    if commit is not None:
        changes = " and changes" if commit["dirty"] else ""
        revision = f", commit {commit['hash'][:9]}{changes}"
    loads = "" if load["before"] is None else f", load {load['before'][0]} before, {load['after'][0]} after"
    return (
        f"{machine.get('gpu', machine['cpu'])}, {machine['usable_cores']} cores, {_how(options)}{loads}\n"
        f"torch {report['versions']['torch']}, monai_iln {report['versions']['monai_iln']}{revision}, {report['date']}"
    )


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what is measured."""
    return {key: value for key, value in vars(options).items() if key not in ("run", "output")}


def _times(shape: Sequence[int]) -> str:
    return "x".join(str(length) for length in shape)
