"""A study on a Ray cluster of two nodes, one of which is lost, and one that is ended by a signal."""

import signal
import subprocess
import time
from collections import Counter

import pandas as pd
import pytest
from running import command

from monai_iln.run_files import RECORD
from monai_iln.study.records import find_runs, read_records

cluster_utils = pytest.importorskip("ray.cluster_utils")
pytestmark = pytest.mark.slow

# Each run says when it begins, and on which node.
TALLY = """
node: $__import__('ray').get_runtime_context().get_node_id()
train#trainer#decollate: "$print(@norm[0] if @norm else 'None', @fold, @node, file=open('{file}', 'a')) is None"
"""
EXACT = ["part", "subject", "phase", "slice", "structure", "dice", "truth_pixels", "predicted_pixels"]


@pytest.fixture
def cluster():
    """Two nodes with one core each. The driver is on the first."""
    limits = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={**limits, "include_dashboard": False})
    yield made, made.add_node(**limits)
    made.shutdown()


def start(given):
    return subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(happened, process):
    deadline = time.monotonic() + 300
    while not happened():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lost_node_loses_no_run_and_does_none_twice(cluster, study, prepared, tmp_path):
    nodes, doomed = cluster
    tally, begun = tmp_path / "tally.yaml", tmp_path / "begun"
    tally.write_text(TALLY.format(file=begun))
    folder = tmp_path / "study"
    given = command(
        prepared, folder, backend="ray", address=nodes.address, jobs=None, training=["train.yaml", str(tally)]
    )
    process = start(given)

    def on_the_node():
        """The runs that the node has begun and not finished."""
        lines = begun.read_text().splitlines() if begun.is_file() else []
        there = [line.split()[:2] for line in lines if line.endswith(doomed.node_id)]
        return [run for run in there if not list(folder.glob(f"runs/*/{run[0]}/fold_{run[1]}/*/*/{RECORD}"))]

    wait_until(lambda: find_runs(folder) and on_the_node(), process)
    finished = {path: (path / RECORD).stat().st_mtime_ns for path in find_runs(folder)}
    lost = on_the_node()
    nodes.remove_node(doomed, allow_graceful=False)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert "6 runs, 0 finished, 6 to do" in output
    records, undisturbed = read_records(folder), read_records(study[0])
    assert list(records.runs["run"]) == list(undisturbed.runs["run"])
    assert set(records.runs["status"]) == {"finished"}
    pd.testing.assert_frame_equal(records.images[EXACT], undisturbed.images[EXACT])
    assert not list(folder.rglob(".seed_*"))
    assert {path: (path / RECORD).stat().st_mtime_ns for path in finished} == finished, "what was finished is kept"
    times = Counter(tuple(line.split()[:2]) for line in begun.read_text().splitlines())
    repeated = {run for run, count in times.items() if count > 1}
    assert len(times) == 6
    assert {tuple(run) for run in lost} == repeated, "what the other node was doing goes on"


def test_sigterm_ends_a_study_on_a_cluster_as_it_does_anywhere(cluster, prepared, tmp_path):
    folder = tmp_path / "study"
    process = start(command(prepared, folder, backend="ray", address=cluster[0].address, jobs=None))
    wait_until(lambda: find_runs(folder) and list(folder.rglob(".seed_*")), process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "interrupted." in output
    assert "SIGTERM received" not in output, "what Ray prints of it"
    assert find_runs(folder)
    assert not list(folder.rglob(".seed_*")), "the runs on the nodes have ended before what they left was removed"
