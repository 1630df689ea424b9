"""The numbers that a simulation takes, as arguments and as options."""

from monai_iln.limits import Limits

_SD = Limits(0, 10**9, whole=False)
_ABOVE_ZERO = Limits(0, 10**9, whole=False, open=True)

LIMITS = {
    "subjects": Limits(4, 10**6),
    "folds": Limits(2, 10**5),
    "methods": Limits(2, 100),
    "seeds": Limits(1, 1_000),
    "repetitions": Limits(2, 10**7),
    "seed": Limits(0),
    "subject": _SD,
    "fold": _SD,
    "training": _SD,
    "residual": _SD,
    "noisy": _SD,
    "shared": _SD,
    "difference": _ABOVE_ZERO,
    "margin": _ABOVE_ZERO,
    "half_width": _ABOVE_ZERO,
}
"""The limits by the names of the arguments of :mod:`monai_iln.study.simulation`."""
