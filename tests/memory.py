"""Memory that a test may take."""

import tracemalloc
from contextlib import contextmanager


@contextmanager
def little_memory():
    """Fails if Python and NumPy hold 5 MB or more at any moment within."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
