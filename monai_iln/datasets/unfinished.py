"""Long work whose results wait in a folder of their own until it is finished, so that it can go on after a stop."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from filelock import FileLock, Timeout

from monai_iln.datasets.formats.listing import UNFINISHED, WORK_KEY
from monai_iln.datasets.progress import track
from monai_iln.errors import UserError, refusal
from monai_iln.files import new_file, require_new
from monai_iln.parallel import Workers, run_in_parallel

Task = TypeVar("Task")

_LOCK, _RESULTS = ".lock", ".results"


def unfinished_folder(output: Path | str) -> Path:
    """The folder of the unfinished work on an output."""
    return Path(output).with_name(f"{Path(output).name}{UNFINISHED}")


def output_of(folder: Path) -> Path:
    """The output of the unfinished work in a folder."""
    return folder.with_name(folder.name.removesuffix(UNFINISHED))


class StoppedError(UserError):
    """An error that does not change the work: a full disk, or folds that do not fit. What is done is kept."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what the system refuses to write, for example because the disk is full, as an error that loses no work.

    Args:
        path: The file or folder that is written.

    Raises:
        StoppedError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StoppedError(str(refusal(error, path))) from error
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise StoppedError(str(error)) from error
        raise


@contextlib.contextmanager
def resumable_folder(output: Path, key: str, unit: str = "subject") -> Iterator[Path]:
    """Fill a folder ``OUTPUT.unfinished``, and give it the name ``OUTPUT`` at the end.

    If the work is stopped, the folder stays, and the same work goes on in it. A :class:`UserError` other than a
    :class:`StoppedError` removes it: what the user corrects changes the work.

    Args:
        output: The folder's final name. It must not exist, or be an empty folder.
        key: A text that is another for other work. What such work has left is removed.
        unit: The name of one task of :func:`map_resumably`, for the message about a stop.

    Yields:
        The folder to fill.

    Raises:
        UserError: If ``output`` holds something already, or another process works on it.
        StoppedError: If something cannot be written.
    """
    require_new(output)
    folder = unfinished_folder(output)
    begun = folder.exists()
    if begun and not (folder / WORK_KEY).is_file():
        raise UserError(f"{folder}: is there, and holds no unfinished work. Remove or rename it.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    with writing(folder):
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise _occupied(folder) from error
    if begun and not (folder / WORK_KEY).is_file():  # the other process is about to give the folder its name
        lock.release()
        raise _occupied(folder)
    try:
        with writing(folder):
            _begin(folder, key)
        yield folder
        with writing(output):
            _finish(folder, output, lock)
    except StoppedError as error:
        raise StoppedError(f"{error} {_keep(folder, unit)}".strip()) from error
    except UserError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except BaseException as error:
        told = _keep(folder, unit)
        if isinstance(error, KeyboardInterrupt) and told:
            error.args = (told,)
        raise
    finally:
        lock.release()


def _occupied(folder: Path) -> UserError:
    return UserError(f"{folder}: another process works there. Wait for it, or choose another output.")


def _begin(folder: Path, key: str) -> None:
    """Remove what other work has left."""
    path = folder / WORK_KEY
    if path.is_file() and path.read_text(encoding="utf-8") == key:
        return
    for entry in folder.iterdir():
        if entry.name != _LOCK:
            _remove(entry)
    path.write_text(key, encoding="utf-8")


def _finish(folder: Path, output: Path, lock: FileLock) -> None:
    """Take away what the work alone needed and what a kill has left, all of it hidden, and give the folder its name."""
    (folder / WORK_KEY).unlink()  # first: without it nobody else begins here
    for entry in folder.glob(".*"):
        if entry.name != _LOCK:
            _remove(entry)
    lock.release()  # some systems do not rename a folder with an open file
    (folder / _LOCK).unlink(missing_ok=True)
    if output.exists():
        output.rmdir()
    folder.replace(output)


def _remove(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _keep(folder: Path, unit: str) -> str:
    """Keep what is done, if anything is, and tell where."""
    done = len(list((folder / _RESULTS).glob("[0-9]*.json")))
    if done:
        return f"{done} {unit}s are done and kept in {folder}: the same command goes on there."
    shutil.rmtree(folder, ignore_errors=True)
    return ""


class Results:
    """The results of tasks, each read from its file when it is wanted.

    Args:
        folder: The folder of the files.
        names: The names of the tasks.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place, name in enumerate(self.names):
            yield name, json.loads(self.file(place).read_text(encoding="utf-8"))

    def file(self, place: int) -> Path:
        """The file of the task at a place."""
        return self.folder / f"{place}.json"


class _Piece(NamedTuple):
    """A task, and the file that gets its result."""

    task: Any
    path: Path


class _Pieces(Sequence[_Piece]):
    """The tasks at some places. Each is made when its turn comes."""

    def __init__(self, results: Results, places: Sequence[int], task: Callable[[str], Any]) -> None:
        self.results, self.places, self.task = results, places, task

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place = self.places[index]
        return _Piece(self.task(self.results.names[place]), self.results.file(place))


def map_resumably(
    function: Callable[[Task], dict[str, Any]],
    names: Sequence[str],
    task: Callable[[str], Task],
    folder: Path,
    workers: Workers,
    *,
    title: str,
    unit: str,
    progress: bool,
) -> Results:
    """Call a function with each of many tasks, but for those whose result is there already.

    Memory does not grow with their number: results go from the processes to the disk.

    Args:
        function: The function. It returns what JSON can hold.
        names: The names of the tasks.
        task: A function that returns the task of a name.
        folder: The folder of :func:`resumable_folder`.
        workers: The processes to use.
        title: The words before the bar.
        unit: The name of one task.
        progress: Shows a bar.

    Returns:
        The results, in the order of the names.

    Raises:
        StoppedError: If a result cannot be written.
    """
    results = Results(folder / _RESULTS, names)
    with writing(results.folder):
        results.folder.mkdir(exist_ok=True)
    places = range(len(names))
    todo = [place for place in places if not results.file(place).is_file()]
    waiting = set(todo)
    with contextlib.closing(run_in_parallel(partial(_do, function), _Pieces(results, todo, task), workers)) as fresh:
        for place in track(places, title, unit, progress):
            if place in waiting:
                next(fresh)
    return results


def _do(function: Callable[[Any], dict[str, Any]], piece: _Piece) -> None:
    result = function(piece.task)
    with writing(piece.path), new_file(piece.path) as partial_path:
        partial_path.write_text(json.dumps(result), encoding="utf-8")
