import os
import tracemalloc
from pathlib import Path

import pytest
from filelock import FileLock

from monai_iln.datasets.unfinished import StoppedError, map_resumably, resumable_folder, writing
from monai_iln.errors import UserError
from monai_iln.parallel import Workers


class Work:
    """Counts its calls, and stops at some of them."""

    def __init__(self, stop=None, error=KeyboardInterrupt):
        self.calls, self.stop, self.error = [], stop, error

    def __call__(self, number):
        self.calls.append(number)
        if number == self.stop:
            raise self.error
        return {"square": number**2}


def do(work, output, key="a", count=5, **options):
    with resumable_folder(output, key, **options) as folder:
        (folder / "made").write_text("whole")
        names = [str(number) for number in range(count)]
        return dict(map_resumably(work, names, int, folder, Workers(1), title="", unit="", progress=False))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, StoppedError("full")])
def test_work_goes_on_where_it_stopped(tmp_path, error):
    output = tmp_path / "out"
    with pytest.raises(error if isinstance(error, type) else StoppedError) as caught:
        do(Work(3, error), output)
    assert not output.exists()
    told = f"3 subjects are done and kept in {output}.unfinished: the same command goes on there."
    assert str(caught.value).endswith(told) is not isinstance(caught.value, MemoryError)
    for left in (".masks-1", ".7_table.csv"):  # as a kill leaves them
        (Path(f"{output}.unfinished") / left).mkdir()
    again = Work()
    assert do(again, output) == {str(number): {"square": number**2} for number in range(5)}
    assert again.calls == [3, 4]
    assert [path.name for path in output.iterdir()] == ["made"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_done_has_its_name(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="^3 volumes are done and kept in "):
        do(Work(3), tmp_path / "out", unit="volume")


def test_results_are_not_kept_in_memory(tmp_path):
    names = [str(number) for number in range(200)]
    with resumable_folder(tmp_path / "out", "a") as folder:
        tracemalloc.start()
        results = map_resumably(
            lambda _: {"text": 100_000 * "x"}, names, str, folder, Workers(1), title="", unit="", progress=False
        )
        assert sum(len(found["text"]) for _, found in results) == 20_000_000
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 5_000_000


def test_other_work_begins_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(Work(3), tmp_path / "out")
    (tmp_path / "out.unfinished" / "images").mkdir()
    again = Work()
    do(again, tmp_path / "out", key="b")
    assert again.calls == [0, 1, 2, 3, 4]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["made"]


def test_what_the_user_must_correct_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="^wrong$"):
        do(Work(3, UserError("wrong")), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_nothing_done_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        do(Work(0), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert str(caught.value) == ""


def test_a_folder_of_that_name_is_not_touched(tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "mine").touch()
    with pytest.raises(UserError, match="holds no unfinished work. Remove or rename it"):
        do(Work(), tmp_path / "out")
    assert (tmp_path / "out.unfinished" / "mine").exists()


def test_two_at_a_time_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(Work(3), tmp_path / "out")
    with (
        FileLock(tmp_path / "out.unfinished" / ".lock"),
        pytest.raises(UserError, match="another process works there"),
    ):
        do(Work(), tmp_path / "out")


@pytest.mark.parametrize("key", ["a", "b"])
def test_two_of_whom_one_is_about_to_finish(tmp_path, monkeypatch, key):
    """The other has seen unfinished work, and gets the lock that was just released."""
    with pytest.raises(KeyboardInterrupt):
        do(Work(3), tmp_path / "out")
    real = FileLock.release
    told = []

    def release(lock, *arguments, **options):
        real(lock, *arguments, **options)
        monkeypatch.setattr(FileLock, "release", real)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "is_file", lambda path: answers.pop(0) if answers else path.exists())
            answers = [True]
            with pytest.raises(UserError) as caught:
                do(Work(), tmp_path / "out", key=key)
        told.append(str(caught.value))

    monkeypatch.setattr(FileLock, "release", release)
    do(Work(), tmp_path / "out")
    assert told == [
        f"{tmp_path / 'out'}.unfinished: another process works there. Wait for it, or choose another output."
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["made"]


def test_a_full_disk_is_told_with_the_file(tmp_path):
    with (
        pytest.raises(StoppedError, match="^image.nii: cannot be written .No space left on device.. Free the disk"),
        writing(Path("image.nii")),
    ):
        raise OSError(28, "No space left on device")


def test_a_full_disk_loses_no_work(tmp_path, monkeypatch):
    real = os.fsync

    def full(descriptor):
        if len(list((tmp_path / "out.unfinished" / ".results").glob("[0-9]*.json"))) == 2:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoppedError, match="2.json: cannot be written .* 2 subjects are done and kept in"):
        do(Work(), tmp_path / "out")


def test_a_folder_as_the_user_wants_it(tmp_path):
    """The mask of permissions is the user's, and so is an empty folder that is there."""
    (tmp_path / "out").mkdir()
    before = os.umask(0o077)
    try:
        do(Work(), tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
