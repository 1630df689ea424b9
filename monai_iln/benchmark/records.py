"""Results and the arithmetic on them: summaries and ratios of times taken round by round."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

COPY = "copy"  # name and only phase of the tensor copy that tells the machine's bandwidth
TOTAL = "forward+backward"


@dataclass(frozen=True)
class Result:
    """One contestant in one setting.

    Attributes:
        contestant: The name of the contestant.
        times_ms: The milliseconds by phase; the n-th entry of every contestant is of the same round.
        peak_bytes: The peak memory beyond what was there before, or ``None`` if not measured.
        not_run: The reason why there are no times, or ``None``.
    """

    contestant: str
    times_ms: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: int | None = None
    not_run: str | None = None


@dataclass(frozen=True)
class Setting:
    """All contestants on one shape.

    Attributes:
        name: The name for people.
        results: The results in the order of the contestants, those not run included.
        tensor_bytes: The size of the input, for a layer.
        floor_tensors: The number of tensors of that size that a norm must at least read or write, by phase.
    """

    name: str
    results: list[Result]
    tensor_bytes: int | None = None
    floor_tensors: dict[str, int] = field(default_factory=dict)

    def result(self, contestant: str) -> Result | None:
        """The result of a contestant, if it took part."""
        return next((result for result in self.results if result.contestant == contestant), None)

    def times(self, contestant: str, phase: str) -> list[float] | None:
        """The times of a contestant in one phase, if it was timed."""
        result = self.result(contestant)
        if result is None:
            return None
        return result.times_ms.get(phase)

    def phases(self) -> list[str]:
        """The phases that were timed, the copy aside."""
        timed = (result.times_ms for result in self.results if result.contestant != COPY and result.times_ms)
        return list(next(timed, {}))


@dataclass(frozen=True)
class Summary:
    """Milliseconds of one contestant in one phase, over the rounds."""

    minimum: float
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class Ratios:
    """Times of one contestant against those of another.

    Attributes:
        of_minima: The ratio of the minima: the machine at its quietest.
        of_medians: The ratio of the medians: the usual time against the usual time.
        paired: The median of the ratios round by round. Both times of a pair were taken within one round, so that a
            load that comes and goes falls on both.
    """

    of_minima: float
    of_medians: float
    paired: float


def summarize(times: Sequence[float]) -> Summary:
    """Minimum, median and quartiles.

    Example:
        >>> summarize([4.0, 1.0, 3.0, 2.0, 5.0])
        Summary(minimum=1.0, lower_quartile=2.0, median=3.0, upper_quartile=4.0)
    """
    if len(times) == 1:
        return Summary(times[0], times[0], times[0], times[0])
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Summary(min(times), lower, median, upper)


def ratios(times: Sequence[float], reference: Sequence[float]) -> Ratios:
    """Compare times with those of a reference in the same rounds.

    Example:
        >>> ratios([2.0, 40.0, 6.0], [1.0, 10.0, 4.0])
        Ratios(of_minima=2.0, of_medians=1.5, paired=2.0)
    """
    return Ratios(
        min(times) / min(reference),
        statistics.median(times) / statistics.median(reference),
        statistics.median(paired_ratios(times, reference)),
    )


def paired_ratios(times: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Ratios round by round."""
    return [time / other for time, other in zip(times, reference, strict=True)]


def gigabytes_per_second(setting: Setting, result: Result, phase: str) -> float | None:
    """Bytes a norm must move at least, over the shortest time; the rate at which the copy moves its bytes.

    The floor of a norm is, in tensors of the input's size, 3 forward (read twice, once for the statistics, and write)
    and 5 backward (input and cotangent twice, and write the gradient); a copy reads one and writes one.
    """
    if setting.tensor_bytes is None or phase not in setting.floor_tensors or phase not in result.times_ms:
        return None
    if result.contestant == "none":  # moves nothing
        return None
    return setting.floor_tensors[phase] * setting.tensor_bytes / min(result.times_ms[phase]) / 1e6
