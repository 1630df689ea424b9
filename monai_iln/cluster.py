"""Ray as a backend of joblib, with a pool as large as what answers."""

from __future__ import annotations

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from monai_iln.errors import UserError, require
from monai_iln.extras import require_extra

_PING_SECONDS = 30.0  # a node has to start Python first
_END_SECONDS = 5.0  # schedulers kill what is there half a minute after their SIGTERM


def connect_to_ray(address: str | None, jobs: int | None = None, gpus_per_job: float = 0) -> dict[str, Any]:
    """Connect to a Ray cluster.

    Args:
        address: The address of the cluster, ``HOST:PORT``. Without it one is started here.
        jobs: The largest number of jobs at a time. ``None`` lets the cluster decide.
        gpus_per_job: The share of a GPU that is reserved for each job.

    Returns:
        The options of joblib for a pool of one worker for each job that fits into the cluster.

    Raises:
        UserError: If Ray is not installed, no cluster answers at the address, or no job fits into it.
    """
    require_extra("backend 'ray'", "ray", "ray")
    import ray
    from ray.util.joblib import register_ray

    if not ray.is_initialized():
        try:
            with _same_sigterm():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # of many kinds
            raise UserError(f"address {address!r}: no Ray cluster answers there ({error}). Start one first.") from error
    register_ray()
    # A pool waits for all of its workers, so there must not be more of them than the cluster can hold.
    cpus, gpus = _resources(ray)
    most = cpus
    if gpus_per_job > 0:
        most = min(cpus, int(gpus / gpus_per_job))
    require(most > 0, f"a cluster with {cpus} CPUs and {gpus:g} GPUs", "no job fits into it", "lower the GPUs of each")
    shares = {"num_cpus": 1, "num_gpus": gpus_per_job}
    return {"backend": "ray", "n_jobs": min(jobs or most, most), "ray_remote_args": shares}


def call_on_ray(
    function: Callable[..., object], tasks: Iterable[Sequence[Any]], options: Mapping[str, Any]
) -> BaseException | None:
    """Call a function with each of many tasks on the nodes of a cluster. A node that is lost ends only its own calls.

    Args:
        function: The function, which can be pickled.
        tasks: The arguments of each call.
        options: The options that :func:`connect_to_ray` returned.

    Returns:
        The first error of a call, after all have ended; ``None`` if there was none.
    """
    import ray

    remote = ray.remote(function).options(max_retries=0, **options["ray_remote_args"])
    waiting, running = iter(tasks), dict[futures.Future[Any], Any]()
    trouble: BaseException | None = None
    try:
        while True:
            for task in itertools.islice(waiting, options["n_jobs"] - len(running)):
                call = remote.remote(*task)
                running[call.future()] = call
            if not running:
                return trouble
            # Not ray.wait, which turns every signal into Ctrl-C.
            for done in futures.wait(running, return_when=futures.FIRST_COMPLETED).done:
                del running[done]
                trouble = trouble or done.exception()  # of the call, or of its node
    except KeyboardInterrupt:  # what the calls leave half done is taken away next
        for call in running.values():
            ray.cancel(call, force=True)
        futures.wait(running, timeout=_END_SECONDS)
        raise


@contextlib.contextmanager
def _same_sigterm() -> Iterator[None]:
    """Keep what this process does at SIGTERM, if this is its main thread: no other may set it.

    Ray puts handlers of its own in its place, one of them in C.
    """
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if kept is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, kept)


def _resources(ray: Any) -> tuple[int, float]:
    """Count the CPUs and GPUs of the nodes that answer. One that was just lost is listed as alive for a while."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote(num_cpus=0, max_retries=0)  # type: ignore[untyped-decorator]
    def ping() -> None: ...

    asked = {
        ping.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in ray.nodes()
        if node["Alive"]
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PING_SECONDS)
    cpus = gpus = 0.0
    for answer in answered:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(answer)
            cpus += asked[answer]["Resources"].get("CPU", 0)
            gpus += asked[answer]["Resources"].get("GPU", 0)
    return int(cpus), gpus
