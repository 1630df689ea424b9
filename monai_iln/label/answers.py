"""What a client is answered when something fails that it can mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelException

from monai_iln.errors import find_user_error


@contextmanager
def answer_user_errors() -> Iterator[None]:
    """Answer mistakes that the client can mend with a message; the server would answer 500 and nothing else."""
    try:
        yield
    except HTTPException:
        raise
    except MONAILabelException as error:
        raise HTTPException(404, error.msg) from error
    except Exception as error:
        user_error = find_user_error(error)
        if user_error is None:
            raise
        raise HTTPException(422, str(user_error)) from error
