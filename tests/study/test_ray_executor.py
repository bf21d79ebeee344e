"""The study on a real Ray cluster of two nodes, one of which is killed while a run is in hand."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tlm_hf.errors import UserError
from tlm_hf.runs.worker_pool import Job, run_jobs
from tlm_hf.study.ray_executor import RayExecutor

ray = pytest.importorskip("ray", reason="needs the extra cluster")
MEMORY = 80 * 2**20


@dataclass(frozen=True)
class Options:
    output_dir: str
    waits_for: str = ""
    fails: bool = False


def job(options):
    """Notes each start (with its node's raylet) and, at the end, what it made."""
    folder = Path(options.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts.txt").open("a") as file:
        file.write(f"{ray.get_runtime_context().get_node_id()}\n")
    end = time.monotonic() + 120
    while options.waits_for and not Path(options.waits_for).exists() and time.monotonic() < end:
        time.sleep(0.1)
    if options.fails:
        raise UserError("The text is empty: give one.")
    (folder / "made.txt").write_text(str(os.getpid()))
    return {}


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}.items():
        monkeypatch.setenv(name, value)
    here = Path(__file__)  # the job below is imported by the workers
    folders = [str(here.parent), str(here.parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
    found = Cluster(initialize_head=True, head_node_args=head)
    yield found
    ray.shutdown()
    found.shutdown()


def test_what_a_run_raises_is_said_and_one_whose_node_is_killed_is_done_on_another(cluster, tmp_path):
    bad = Job("bad", job, Options(str(tmp_path / "bad"), fails=True))
    with pytest.raises(UserError, match="The text is empty"):
        run_jobs([bad], 1, "Study", show=False, elsewhere=RayExecutor(cluster.address))
    node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
    folders = [tmp_path / name for name in ("one", "two", "after")]
    one, two, after = (
        Job(folder.name, job, Options(str(folder), str(tmp_path / "go") if not needs else ""), after=needs)
        for folder, needs in zip(folders, ((), (), ("one", "two")), strict=True)
    )

    def kill() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not all((folder / "starts.txt").exists() for folder in folders[:2]):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        time.sleep(3)  # the dead node's worker ends a moment later than its raylet
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill)
    killer.start()
    run_jobs([one, two, after], 1, "Study", show=False, elsewhere=RayExecutor(cluster.address))
    killer.join()
    assert all((folder / "made.txt").exists() for folder in folders)
    starts = [(folder / "starts.txt").read_text().split() for folder in folders[:2]]
    again = [found for found in starts if len(found) > 1]
    assert len(again) == 1, starts  # the one on the killed node, begun there and done elsewhere
    assert len(set(again[0])) == 2
    made = [(folder / "made.txt").stat().st_mtime_ns for folder in folders]
    assert made[2] == max(made)
