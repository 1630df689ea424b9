import numpy as np
import pytest

from monai_iln.study.chance import estimate_chance

METHODS = ("a", "b", "c", "d", "e", "f")


def noise(methods=2, seeds=3, folds=3, in_fold=4, seed=0):
    """Scores of independent noise, and one split."""
    rng = np.random.default_rng(seed)
    subjects = folds * in_fold
    return rng.normal(0.8, 0.05, (methods, seeds, subjects)), np.tile(np.arange(subjects) % folds, (seeds, 1))


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_the_interval_is_that_of_the_t_distribution_around_the_mean(seeds):
    scores, folds = noise(seeds=seeds)
    found = estimate_chance(scores, folds, METHODS[:2]).between("a", "b")
    low, high = found.interval()
    assert found.mean == pytest.approx((scores[0] - scores[1]).mean())
    assert low + high == pytest.approx(2 * found.mean)
    assert low < found.mean < high
    assert (found.p < 0.05) == (low > 0 or high < 0)
