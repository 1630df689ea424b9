"""What a client is answered when something fails that it can mend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi import HTTPException
from monailabel.interfaces.exception import MONAILabelException

from monai_iln.errors import find_user_error


@contextmanager
def answer_user_errors(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Answer mistakes that the client can mend with a message; the server would answer 500 and nothing else.

    Args:
        names: What the client calls files, by their paths, which mean nothing to it. Messages tell the names.

    Raises:
        HTTPException: With status 404 for what is not there, 422 for what is wrong.
    """
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
        message = str(user_error)
        for path, name in (names or {}).items():
            message = message.replace(path, name)
        raise HTTPException(422, message) from error
