"""Damaged data of every kind that is read: each ends in a message or a finding, and what is read is the truth.

At length, as a script, which prints what to repeat::

    python tests/datasets/test_fuzz.py --inputs 10000 --seed 0
    python tests/datasets/test_fuzz.py --only acdc --seed 0 --number 123
"""

import argparse
import contextlib
import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if __name__ == "__main__":
    sys.path.insert(1, str(Path(__file__).parents[1]))  # as pytest finds what tests share

from fuzz_damage import AFFINE, IMAGE, LABEL, LOST, NEW, Damage, damage
from fuzz_layouts import INPUTS, Output

from monai_iln.datasets import DataWarning, check_datalist, prepare_sunnybrook, read_sunnybrook
from monai_iln.errors import UserError

EXAMPLES = 6  # of each kind in the daily run
LIMIT = 20  # seconds for one input
MEMORY = 2 << 30  # bytes
ENDS = ("refused", "read on", "unchanged", "undetectable", "traceback", "hang", "untidy", "silently wrong")
GOOD = ENDS[:4]


class End(NamedTuple):
    """How the reading of a damaged input ended: one of ``ENDS``, and why."""

    name: str
    why: str = ""


class Hang(BaseException):
    """Not an exception, which readers may catch."""


@contextlib.contextmanager
def limited(seconds):
    """Ends what takes longer, or more than 2 GB of memory: a link to ``/dev/zero`` never ends."""

    def stop(*_):
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, memory[1]))
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def listening():
    """Keeps what is printed, by libraries in C too, and gives it in a list that is filled in the end."""
    printed = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield printed
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            printed.append(file.read().decode("utf-8", "replace"))


class Fuzz:
    """One kind of input: written once, then copied, damaged and read, as often as one likes.

    Args:
        name: A key of ``INPUTS``.
        home: A folder of its own.
        seconds: What one input may take.
    """

    def __init__(self, name, home, seconds=LIMIT):
        self.seconds = seconds
        self.name, self.kind, self.whole = name, INPUTS[name], home / "whole"
        self.folder, self.output = home / "work" / self.kind.folder, home / "out" / "prepared"
        home.mkdir(exist_ok=True)
        self.kind.write(self.whole)
        self._make()
        self.truth = self._read()
        self.subjects = {volume.subject for volume in self.truth.stacks.values()}
        assert len(self.subjects) in (1, 3, 7)

    def try_one(self, seed, number):
        """Damage a copy and read it: the damage, and how that ended."""
        done = self._make(random.Random(f"{self.name} {seed} {number}"))
        try:
            with listening() as printed:
                output = self._read()
            end = self._judge(done, output)
        except Hang:
            end = End("hang", traceback.format_exc())
        except UserError as error:
            end = End("refused", str(error))
            if len(str(error)) <= 40:
                end = End("untidy", f"no full message: {error}")
            elif self.output.exists():
                end = End("untidy", f"something is left behind: {error}")
        except Warning:
            end = End("untidy", traceback.format_exc())
        except Exception:
            end = End("traceback", traceback.format_exc())
        if end.name in GOOD and printed != [""]:
            end = End("untidy", f"printed: {printed[0]}")
        return done, end

    def _make(self, rng=None):
        """Make a copy, damaged where there is chance. Of an archive, half the damage befalls what it holds."""
        done = None
        for folder in (self.folder.parent, self.output.parent):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        shutil.copytree(self.whole, self.folder)
        if rng and (self.kind.pack is None or rng.random() < 0.5):
            done = damage(rng, self.folder)
        if self.kind.pack is not None:
            self.kind.pack(self.folder)
        if rng and done is None:
            done = damage(rng, self.folder)
        return done

    def _read(self):
        with warnings.catch_warnings(), limited(self.seconds):
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", DataWarning)
            return self.kind.read(self.folder, self.output)

    def _judge(self, done, output):
        """Whatever differs from the truth must be told, or be what nobody can notice."""
        told = "\n".join(output.told - self.truth.told)
        owners = self._owners(done.files)
        end, slices = End("read on", told) if told else End("unchanged"), 0
        for name in sorted(self.truth.stacks.keys() | output.stacks.keys()):
            subject, changes, count = self._compare(name, output, done)
            slices += count
            if not changes or self._is_told(told, subject, done.files):
                continue
            what = f"{name}: {', '.join(sorted(changes))}"
            if changes <= done.may and slices <= done.slices and subject in owners:
                end = End("undetectable", what)
            else:
                return End("silently wrong", f"{what}. It may be {sorted(done.may)} of {sorted(owners)}. Told: {told}")
        return end

    def _compare(self, name, output, done):
        """The subject of a stack, what differs from the truth in it, and the number of slices that do."""
        found, truth = output.stacks.get(name), self.truth.stacks.get(name)
        if found is None:
            return truth.subject, {LOST}, 0
        if truth is None:
            whole = [one for one in self.truth.stacks.values() if found.slices == one.slices]
            is_renamed = whole and NEW in done.may
            return (whole[0].subject, {NEW}, 0) if is_renamed else (found.subject, {NEW, IMAGE, LABEL}, 0)
        slices, changes = found.slices, set()
        if len(slices) < len(truth.slices) and [*slices] == [*range(1, len(slices) + 1)]:  # numbers of the reading
            place = {content: number for number, content in truth.slices.items()}
            slices = {place.get(content, number): content for number, content in slices.items()}
        if slices.keys() != truth.slices.keys():
            changes.add(LOST if slices.keys() < truth.slices.keys() else NEW)
        elif not np.allclose(found.affine, truth.affine, atol=1e-3):
            changes.add(AFFINE)
        wrong = 0
        for number in slices.keys() & truth.slices.keys():
            differs = [one != other for one, other in zip(slices[number], truth.slices[number], strict=True)]
            changes |= {what for what, is_other in zip((IMAGE, LABEL), differs, strict=True) if is_other}
            wrong += any(differs)
        return truth.subject, changes, wrong

    def _is_told(self, told, subject, files):
        names = {subject, self.kind.alias(subject), *(file.name for file in files)}
        return any(name in told for name in names)

    def _owners(self, files):
        """The subjects whose files these are, or all if no name says so."""
        text = " ".join(map(str, files))
        return {one for one in self.subjects if one in text or self.kind.alias(one) in text} or self.subjects


pytestmark = pytest.mark.skipif(not Path("/proc").exists(), reason="pipes, devices and limits as Linux has them")


@pytest.fixture(scope="module", params=INPUTS)
def fuzz(request, tmp_path_factory):
    return Fuzz(request.param, tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
def test_damaged_data(fuzz):
    for number in range(EXAMPLES):
        done, end = fuzz.try_one(0, number)
        assert end.name in GOOD, f"--only '{fuzz.name}' --number {number}: {done}\n{end.name}: {end.why}"


@pytest.mark.parametrize("change", [LOST, NEW, IMAGE, LABEL, AFFINE])
def test_what_differs_and_is_not_told_is_wrong_in_silence(tmp_path, change):
    fuzz = Fuzz("acdc", tmp_path)
    name, volume = next(iter(fuzz.truth.stacks.items()))
    others = {key: value for key, value in fuzz.truth.stacks.items() if key != name}
    slices = {
        number: (b"other" if change == IMAGE else image, label) for number, (image, label) in volume.slices.items()
    }
    if change == LABEL:
        slices[2] = slices[2][0], b"other"
    changed = {
        LOST: {},
        NEW: {name: volume, "other": volume},
        AFFINE: {name: volume._replace(affine=2 * volume.affine)},
    }.get(change, {name: volume._replace(slices=slices)})
    output = Output({**others, **changed}, fuzz.truth.told)
    file = Path(volume.subject, "file")
    assert fuzz._judge(Damage("", (file,)), output).name == "silently wrong"
    assert fuzz._judge(Damage("", (file,), {change}), output).name == "undetectable"
    assert fuzz._judge(Damage("", (Path("patient003"),), {change}), output).name == "silently wrong"
    told = output._replace(told={*output.told, f"excluded {volume.subject} or other"})
    assert fuzz._judge(Damage("", (file,)), told).name == "read on"


@pytest.mark.slow
@settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["training", "labels", "image", "label", "fold"]) | st.text(max_size=3), inner
            )
        ),
        max_leaves=12,
    )
)
def test_any_json(tmp_path, document):
    (tmp_path / "datalist.json").write_text(json.dumps(document))
    with pytest.raises(UserError):
        check_datalist(tmp_path)


def test_paths_with_anything_in_them(tmp_path, official, stacks):
    folder = tmp_path / "a b%20ü 日本 'x' [1] {2}"
    shutil.copytree(official, folder)
    assert len(read_sunnybrook(folder).stacks) == len(stacks)
    assert len(check_datalist(prepare_sunnybrook(folder, tmp_path / "o ü [2]"))) == len(stacks)


def run(names, seed, numbers, seconds):
    """Try inputs of every kind in turn, print those that end badly with what repeats them, and a table of all ends."""
    counts = {name: Counter() for name in names}
    errors = os.fdopen(os.dup(2), "w")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        fuzzes = [Fuzz(name, Path(home, name.replace(" ", "_")), seconds) for name in names]
        for number in numbers:
            for fuzz in fuzzes:
                faulthandler.dump_traceback_later(3 * seconds, exit=True, file=errors)  # of what no signal stops
                done, end = fuzz.try_one(seed, number)
                counts[fuzz.name][end.name] += 1
                if end.name not in GOOD or len(numbers) == 1:
                    print(
                        f"--only '{fuzz.name}' --seed {seed} --number {number}\n  {done}\n  {end.name}: {end.why}",
                        flush=True,
                    )
        faulthandler.cancel_dump_traceback_later()
    print(f"{'input':30}" + "".join(f"{end:>15}" for end in ENDS))
    for name, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:30}" + "".join(f"{count[end]:15}" for end in ENDS))
    return any(count[end] for count in counts.values() for end in ENDS if end not in GOOD)


def main():
    parser = argparse.ArgumentParser(description="Damage data, read them, and count how that ends.")
    parser.add_argument("--inputs", type=int, default=len(INPUTS), help="the number of damaged inputs in all")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the damages")
    parser.add_argument("--only", nargs="+", choices=INPUTS, default=[*INPUTS], help="the kinds of input")
    parser.add_argument("--number", type=int, help="the number of one damage to repeat")
    parser.add_argument("--seconds", type=float, default=LIMIT, help="what one input may take")
    given = parser.parse_args()
    numbers = range(-(-given.inputs // len(given.only)))
    if given.number is not None:
        numbers = range(given.number, given.number + 1)
    sys.exit(run(given.only, given.seed, numbers, given.seconds))


if __name__ == "__main__":
    main()
