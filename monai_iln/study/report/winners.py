"""Which method came out best, by mean and by rank, and how far it is ahead of every other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import NO_NUMBER, count, join, number, place
from monai_iln.study.statistics import ALPHA, METRICS, MIN_SUBJECTS, Comparison, Metric, compare, rank

_VERDICTS = ("better", "worse", "mixed", "none", "untested")


@dataclass(frozen=True)
class Winner:
    """The best method of a data set and structure, over the subjects that all methods have.

    Attributes:
        by_mean: The method with the best mean; of equal ones the reference, or the first.
        by_rank: The method with the best mean rank, chosen alike.
        means: The mean scores by method.
        ranks: The mean ranks by method, 1 the best.
        subjects: The number of subjects.
        comparisons: The comparisons of ``by_mean`` with every other method. Unless it is the reference, they are
            corrected over every pair of methods, for the scores themselves chose it.
    """

    by_mean: str
    by_rank: str
    means: dict[str, float]
    ranks: dict[str, float]
    subjects: int
    comparisons: Sequence[Comparison]


def answers(results: Results) -> list[str]:
    """For each data set and structure the best method, and what the reference is better and worse than.

    Of a data set with several structures, the mean over those that were learned comes first.
    """
    found, metric = [], results.metric
    for dataset in results.datasets:
        structures = [structure for name, structure in results.parts if name == dataset]
        learned = [structure for structure in structures if (dataset, structure) not in results.unlearned]
        if len(learned) > 1:
            where = f"{dataset} over its {len(learned)} structures"
            found.append(_answer(_mean_over(results, dataset, learned), where, results))
        found += [
            _answer(results.scores(dataset, structure), place(dataset, structure), results) for structure in learned
        ]
        for structure in structures:
            if structure not in learned:
                found.append(f"No method learned {place(dataset, structure)}: every {metric.mean} is below 0.05.")
    return list(filter(None, found))


def _mean_over(results: Results, dataset: str, structures: Sequence[str]) -> pd.DataFrame:
    """The scores of the subjects, averaged over structures. Of a subject, those count that all methods have."""
    scores = pd.concat([results.scores(dataset, structure) for structure in structures])
    return scores.dropna().groupby(level="subject", sort=False).mean()


def _answer(scores: pd.DataFrame, where: str, results: Results) -> str:
    """The sentences on one table of scores."""
    said, metric, reference = [], results.metric, results.reference
    winner = find_winner(scores, reference, metric)
    if winner is not None:
        said += [_best(winner, where, metric), *_verdicts(winner.comparisons, metric)]
        if winner.by_mean != reference and len(winner.means) > 2:
            said.append("The scores themselves picked it, so its tests are corrected over every pair of methods.")
    said += [
        f"But all gates of {method} are dead, and it is instance norm: beside IN, chance is all that differs."
        for method, survey in dict(results.study.get("surveys") or {}).items()
        if method in scores
        and survey.get("gates")
        and survey["dead_gates"] == survey["gates"]
        and _has_instance(results)
    ]
    if reference in scores and scores.shape[1] > 1 and (winner is None or winner.by_mean != reference):
        said += _of_reference(compare(scores, reference, metric), where, metric)
    return " ".join(said)


def _has_instance(results: Results) -> bool:
    """Whether a method of the study has instance norms alone."""
    surveys = dict(results.study.get("surveys") or {}).values()
    return any(
        kinds and all(kind.startswith("InstanceNorm") for kind in kinds) for kinds in (s["kinds"] for s in surveys)
    )


def find_winner(scores: pd.DataFrame, reference: str, metric: Metric = METRICS["dice"]) -> Winner | None:
    """Find the best method; ``None`` if there is only one, or no subject has a score with all of them.

    Args:
        scores: The scores, a row a subject, a column a method; see :func:`~monai_iln.study.statistics.subject_scores`.
        reference: The method that the study compares the others with.
        metric: The metric.

    Example:
        >>> scores = pd.DataFrame({"IN": [0.8, 0.7], "ILN": [0.9, 0.8], "None": [0.5, 0.9]})
        >>> winner = find_winner(scores, "IN")
        >>> winner.by_mean, winner.by_rank, winner.subjects
        ('ILN', 'ILN', 2)
    """
    common = scores[np.isfinite(scores.to_numpy(float)).all(axis=1)]
    if common.shape[1] < 2 or common.empty:
        return None
    means = {str(method): float(mean) for method, mean in common.mean().items()}
    sign = -1 if metric.higher_is_better else 1
    ranks = rank(scores, metric).average_ranks
    by_mean = _first({method: sign * mean for method, mean in means.items()}, reference)
    by_rank = _first(ranks, by_mean)
    found = compare(scores, by_mean, metric, every_pair=by_mean != reference)
    return Winner(by_mean, by_rank, means, ranks, len(common), found)


def _first(values: dict[str, float], preferred: str) -> str:
    """The method with the lowest value; of equal ones the preferred one, else the first."""
    lowest = min(round(value, 9) for value in values.values())
    equal = [method for method, value in values.items() if round(value, 9) == lowest]
    return preferred if preferred in equal else equal[0]


def _best(winner: Winner, where: str, metric: Metric) -> str:
    """Name the winner, in a sentence."""
    mean, other = winner.by_mean, winner.by_rank
    over = f"over {count(winner.subjects, 'subject')}"

    def of(method: str) -> str:
        return number(winner.means[method], metric.decimals) + metric.unit

    if mean == other:
        ranked = f"{winner.ranks[mean]:.2f} of {len(winner.ranks)}"
        return f"Best on {where} is {mean}, by {metric.mean} ({of(mean)}) and by mean rank ({ranked}), {over}."
    return (
        f"Best on {where} by {metric.mean} is {mean} ({of(mean)}; mean rank {winner.ranks[mean]:.2f}), and by mean "
        f"rank {other} ({winner.ranks[other]:.2f} of {len(winner.ranks)}; {metric.mean} {of(other)}), {over}. "
        f"What follows is of {mean}."
    )


def _of_reference(rows: Sequence[Comparison], where: str, metric: Metric) -> list[str]:
    mean = next((row.mean_reference for row in rows if not np.isnan(row.mean_reference)), np.nan)
    reached = number(mean, metric.decimals) + metric.unit
    return [f"{rows[0].reference}, the reference, reaches {reached} on {where}.", *_verdicts(rows, metric)]


def _verdicts(rows: Sequence[Comparison], metric: Metric) -> list[str]:
    """A sentence for each verdict that there is."""
    by_verdict: dict[str, list[Comparison]] = {verdict: [] for verdict in _VERDICTS}
    for row in rows:
        by_verdict[verdict_of(row)].append(row)
    return [tell(verdict, found, metric) for verdict, found in by_verdict.items() if found]


def verdict_of(row: Comparison) -> str:
    """The verdict on the reference of a comparison beside the other method."""
    if np.isnan(row.p_holm):
        return "untested"
    if row.p_holm >= ALPHA:
        return "none"
    if row.better is None:  # ranks and mean point in opposite directions
        return "mixed"
    if row.better == row.reference:
        return "better"
    return "worse"


def tell(verdict: str, rows: Sequence[Comparison], metric: Metric = METRICS["dice"]) -> str:
    """A sentence for all comparisons with one verdict, with their differences and intervals."""
    differences = join([_difference(row, metric) for row in rows])
    subjects = count(max(row.subjects for row in rows), "subject")
    sentences = {
        "better": f"It is better than {differences}.",
        "worse": f"It is worse than {differences}.",
        "mixed": f"It differs from {differences}, but mean and ranks disagree on which is better.",
        "none": f"There is no evidence of a difference to {differences}; with {subjects} that is no proof that there "
        "is none.",
        "untested": f"Nothing was tested against {differences}: fewer than {MIN_SUBJECTS} subjects have both, or none "
        "differs.",
    }
    return sentences[verdict]


def _difference(row: Comparison, metric: Metric) -> str:
    """The other method, with the difference to it and its interval."""
    interval = NO_NUMBER
    if not np.isnan(row.low):
        interval = f"{number(row.low, metric.decimals)} to {number(row.high, metric.decimals)}"
    return f"{row.other} ({number(row.difference, metric.decimals, sign=True)}; {interval})"
