"""Which method came out best, by mean and by rank, and how far it is ahead of every other one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from monai_iln.errors import count
from monai_iln.study.report.results import Results
from monai_iln.study.report.wording import join, number, place
from monai_iln.study.statistics import METRICS, Metric, rank, subject_scores
from monai_iln.study.verdicts import Verdict, judge, over_structures

_ANSWERS = ("better", "equal", "worse", "unknown", "untested")


@dataclass(frozen=True)
class Winner:
    """The best method of a data set and structure, over the subjects that all methods have.

    Attributes:
        by_mean: The method with the best mean; of equal ones the reference, or the first.
        by_rank: The method with the best mean rank, chosen alike.
        means: The mean scores by method.
        ranks: The mean ranks by method, 1 the best.
        subjects: The number of subjects.
        verdicts: The verdicts on ``by_mean`` beside every other method. Unless it is the reference, they are corrected
            over every pair of methods, for the scores themselves chose it.
    """

    by_mean: str
    by_rank: str
    means: dict[str, float]
    ranks: dict[str, float]
    subjects: int
    verdicts: Sequence[Verdict]


def winners_of(results: Results) -> dict[str, Winner | None]:
    """The best method of each data set by the mean over its structures that were learned; of a data set that has any.

    Args:
        results: The results.
    """
    learned = {dataset: results.learned(dataset) for dataset in results.datasets}
    asked = (results.reference, results.metric, results.margin)
    return {
        dataset: find_winner(images_of(results, dataset, structures), *asked)
        for dataset, structures in learned.items()
        if structures
    }


def answers(results: Results, best: Mapping[str, Winner | None]) -> list[str]:
    """For each data set and structure the best method, and what the reference is better and worse than.

    Of a data set with several structures, the mean over those that were learned comes first, and each is told briefly.

    Args:
        results: The results.
        best: What :func:`winners_of` found of them.
    """
    found, metric = [], results.metric
    little: list[str] = []
    for dataset, winner in best.items():
        learned = results.learned(dataset)
        several = len(learned) > 1
        where = f"{dataset} over its {count(len(learned), 'structure')}" if several else place(dataset, *learned)
        said, verdicts = _answer(images_of(results, dataset, learned), winner, where, results)
        found.append(said)
        little += _learned_little(verdicts, where, metric)
        for structure in learned if several else ():
            images = results.part(results.shown, dataset, structure)
            own, where = find_winner(images, results.reference, metric, results.margin), place(dataset, structure)
            found.append(" ".join(_of_winner(own, where, results)))
            little += _learned_little(own.verdicts if own else (), where, metric)
    if little:
        found.append(f"Networks that have learned little are alike, too: the best {metric.mean} is {join(little)}.")
    for dataset, structure in results.parts:
        if (dataset, structure) in results.unlearned:
            found.append(f"No method learned {place(dataset, structure)}: every {metric.mean} is below 0.05.")
    return list(filter(None, found))


def images_of(results: Results, dataset: str, structures: Sequence[str]) -> pd.DataFrame:
    """The images of a data set; of several structures the mean stands for each subject."""
    if len(structures) == 1:
        return results.part(results.shown, dataset, structures[0])
    shown = results.shown
    own = shown[(shown["dataset"] == dataset) & shown["structure"].isin(structures)]
    return over_structures(own, results.metric)


def name_of(dataset: str, structures: Sequence[str]) -> str:
    """What those images are of."""
    if len(structures) == 1:
        return place(dataset, structures[0])
    return f"{dataset}, mean of {len(structures)} structures"


def _of_winner(winner: Winner | None, where: str, results: Results) -> list[str]:
    """What is of the best method, in sentences."""
    if winner is None:
        return []
    return [_best(winner, where, results.metric), *tell_all(winner.verdicts, results.metric, results.margin)]


def _answer(images: pd.DataFrame, winner: Winner | None, where: str, results: Results) -> tuple[str, Sequence[Verdict]]:
    """The sentences on the images of one data set, and the verdicts that they tell."""
    metric, reference = results.metric, results.reference
    said, methods = _of_winner(winner, where, results), set(images["method"])
    verdicts: list[Verdict] = []
    if winner is not None:
        verdicts += winner.verdicts
        if winner.by_mean != reference and len(winner.means) > 2:
            said.append("The scores themselves picked it, so its tests are corrected over every pair of methods.")
        said += _next_training(winner, metric)
    said += [
        f"But {why}, and it is instance norm: beside IN, chance is all that differs."
        for method, why in _instance_norms(results).items()
        if method in methods
    ]
    if reference in methods and len(methods) > 1 and (winner is None or winner.by_mean != reference):
        rows = judge(images, reference, metric, results.margin)
        said += _of_reference(rows, where, metric, results.margin)
        verdicts += rows
    return " ".join(said), verdicts


def _learned_little(verdicts: Sequence[Verdict], where: str, metric: Metric) -> list[str]:
    """The best mean of what is practically equal somewhere, if it is low."""
    means = [max(row.mean_reference, row.mean_other) for row in verdicts if row.answer == "equal"]
    if not means or not metric.is_low(max(means)):
        return []
    return [f"{number(max(means), metric.decimals)} on {where}"]


def _instance_norms(results: Results) -> dict[str, str]:
    """The methods that are instance norm under another name, and why, where a method of the study is instance norm."""
    surveys = dict(results.study.get("surveys") or {})
    kinds = [survey.get("kinds") for survey in surveys.values()]
    if not any(names and all(name.startswith("InstanceNorm") for name in names) for names in kinds):
        return {}
    found = {}
    for method, survey in surveys.items():
        if survey.get("gates") and survey["dead_gates"] == survey["gates"]:
            found[method] = f"all gates of {method} are dead"
        elif survey.get("norms") and survey.get("one_channel_groups") == survey["norms"]:
            found[method] = f"each group of {method} has one channel"
    return found


def find_winner(
    images: pd.DataFrame, reference: str, metric: Metric = METRICS["dice"], margin: float | None = None
) -> Winner | None:
    """Find the best method; ``None`` if there is only one, or no subject has a score with all of them.

    Args:
        images: The test images of one data set and structure, see :func:`~monai_iln.study.verdicts.judge`.
        reference: The method that the study compares the others with.
        metric: The metric.
        margin: The difference that does not matter.
    """
    images = _with_scores(_complete_seeds(images), metric)
    scores = subject_scores(_with_scores(_common_runs(images), metric), metric)
    common = scores[np.isfinite(scores.to_numpy(float)).all(axis=1)]
    if common.shape[1] < 2 or common.empty:
        return None
    means = {str(method): float(mean) for method, mean in common.mean().items()}
    sign = -1 if metric.higher_is_better else 1
    ranks = rank(scores, metric).average_ranks
    by_mean = _first({method: sign * mean for method, mean in means.items()}, reference)
    by_rank = _first(ranks, by_mean)
    found = judge(images, by_mean, metric, margin, every_pair=by_mean != reference)
    return Winner(by_mean, by_rank, means, ranks, len(common), found)


def _complete_seeds(images: pd.DataFrame) -> pd.DataFrame:
    """The images of the seeds that all methods have with all folds; all images where most seeds lack a run."""
    runs = images[["method", "seed", "fold"]].drop_duplicates()
    whole = runs["method"].nunique() * runs["fold"].nunique()
    counts = runs["seed"].value_counts()
    complete = counts.index[counts == whole]
    return images[images["seed"].isin(complete)] if 2 * len(complete) >= len(counts) else images


def _common_runs(images: pd.DataFrame) -> pd.DataFrame:
    """The images of the seeds and folds that all methods have: one without its runs of a hard seed would seem better.

    All images where all methods have none.
    """
    runs = images[["method", "seed", "fold"]].drop_duplicates()
    counts = runs[["seed", "fold"]].value_counts()
    common = counts.index[counts == runs["method"].nunique()]
    kept = images[pd.MultiIndex.from_frame(images[["seed", "fold"]]).isin(common)]
    return images if kept.empty else kept


def _with_scores(images: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """The images of the subjects that have a score in each run, by which methods are compared; of all if none has."""
    counts = images.groupby(["method", "seed", "subject"], sort=False)[metric.column].count()
    lost = counts.index[counts == 0].get_level_values("subject")
    kept = images[~images["subject"].isin(lost)]
    return images if kept.empty else kept


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


def _next_training(winner: Winner, metric: Metric) -> list[str]:
    """How likely the winner is ahead of the next one in a new training."""
    known = [row for row in winner.verdicts if not np.isnan(row.chance_of_better)]
    if not known:
        return []
    sign = 1 if metric.higher_is_better else -1
    closest = min(known, key=lambda row: sign * row.difference)
    return [
        f"In one new training of each, it would be ahead of {closest.other} with a probability of "
        f"{closest.chance_of_better:.2f}."
    ]


def _of_reference(rows: Sequence[Verdict], where: str, metric: Metric, margin: float | None) -> list[str]:
    mean = next((row.mean_reference for row in rows if not np.isnan(row.mean_reference)), np.nan)
    reached = number(mean, metric.decimals) + metric.unit
    return [f"{rows[0].reference}, the reference, reaches {reached} on {where}.", *tell_all(rows, metric, margin)]


def tell_all(rows: Sequence[Verdict], metric: Metric, margin: float | None) -> list[str]:
    """A sentence for each answer that there is."""
    by_answer: dict[str, list[Verdict]] = {answer: [] for answer in _ANSWERS}
    for row in rows:
        by_answer[row.answer].append(row)
    return [tell(answer, found, metric, margin) for answer, found in by_answer.items() if found]


def tell(answer: str, rows: Sequence[Verdict], metric: Metric = METRICS["dice"], margin: float | None = None) -> str:
    """A sentence for all verdicts with one answer, with their differences and intervals."""
    differences = join([_difference(row, metric) for row in rows])
    grid = max(rows, key=lambda row: (row.seeds * row.folds, row.subjects))
    size = join([count(grid.subjects, "subject"), count(grid.folds, "fold"), count(grid.seeds, "seed")])
    reasons = join(list(dict.fromkeys(filter(None, (row.reason for row in rows)))))
    uncorrected = ""
    if any(row.low * row.high > 0 for row in rows):
        uncorrected = " An interval that excludes 0 is not corrected for the number of comparisons; p is."
    sentences = {
        "better": f"It is better than {differences}.",
        "equal": f"It is practically equal to {differences}: the 90 % interval lies within \N{PLUS-MINUS SIGN}"
        f"{margin}{metric.unit}.",
        "worse": f"It is worse than {differences}.",
        "unknown": f"There is no evidence of a difference to {differences}; with {size} that is no proof that there is "
        f"none.{uncorrected}",
        "untested": f"Nothing was tested against {differences}: {reasons or 'no difference varies'}.",
    }
    return sentences[answer]


def _difference(row: Verdict, metric: Metric) -> str:
    """The other method and, as far as they are known, the difference to it and its interval."""
    known = []
    if not np.isnan(row.difference):
        known.append(number(row.difference, metric.decimals, sign=True))
    if not np.isnan(row.low):
        known.append(f"{number(row.low, metric.decimals)} to {number(row.high, metric.decimals)}")
    return f"{row.other} ({'; '.join(known)})" if known else row.other
