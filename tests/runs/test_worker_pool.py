"""Jobs side by side: their order, their errors, and that no worker outlives its command."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tlm_hf.errors import UserError
from tlm_hf.runs.worker_pool import Job, run_jobs


@dataclass
class Work:
    output_dir: str
    number: int
    seconds: float = 0.0


def add_line(work: Work) -> dict[str, int]:
    """Note start and end in a file beside the output folder, and return the number and the process."""
    with (Path(work.output_dir).parent / "order.txt").open("a") as file:
        file.write(f"start {work.number}\n")
        file.flush()
        time.sleep(work.seconds)
        file.write(f"end {work.number}\n")
    facts = {"threads": os.environ.get("OMP_NUM_THREADS"), "device": os.environ.get("CUDA_VISIBLE_DEVICES")}
    return {"number": work.number, "process": os.getpid(), **facts}


def refuse(work: Work) -> dict[str, int]:
    raise UserError(f"Number {work.number} is bad: give another one.")


def job(folder: Path, number: int, after: tuple[str, ...] = (), function=add_line) -> Job:
    return Job(f"job {number}", function, Work(str(folder / str(number)), number, 0.1), after)


@pytest.mark.parametrize("workers", [1, 2])
def test_order_errors_and_later_jobs(tmp_path, workers):
    before = dict(os.environ)
    jobs = [job(tmp_path, 1, ("job 3",)), job(tmp_path, 2), job(tmp_path, 3, ("job 2",))]
    later = job(tmp_path, 4)
    devices = ["4", "7"] if workers > 1 else None
    more = lambda: [*jobs, later] if "end 3" in order(tmp_path) else jobs  # noqa: E731
    results = run_jobs(jobs, workers, "Testing", more, devices=devices)
    assert {name: result["number"] for name, result in results.items()} == {f"job {n}": n for n in (1, 2, 3, 4)}
    lines = order(tmp_path).splitlines()
    assert lines[:4] == ["start 2", "end 2", "start 3", "end 3"]
    assert sorted(lines[4:]) == ["end 1", "end 4", "start 1", "start 4"]
    processes = {result["process"] for result in results.values()}
    assert (os.getpid() in processes) == (workers == 1)
    if workers > 1:
        assert {result["threads"] for result in results.values()} == {"1"}
        assert {result["device"] for result in results.values()} <= {"4", "7"}
    assert dict(os.environ) == before
    assert all((tmp_path / str(number) / "train.log").exists() for number in (1, 2, 3, 4))

    follower = job(tmp_path, 8, ("job 7",))
    with pytest.raises(UserError, match=r"^job 7: Number 7 is bad: give another one\.$"):
        run_jobs([follower, job(tmp_path, 7, function=refuse)], workers, "Testing")
    with pytest.raises(ValueError, match="job 8"):
        run_jobs([follower], workers, "Testing")
    assert "start 8" not in order(tmp_path)


def save_first(work: Work) -> dict[str, int]:
    """As a training does: SIGTERM is noted, and what it saves takes a while."""
    noted: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: noted.append(1))
    (Path(work.output_dir) / "started").touch()
    while not noted:
        time.sleep(0.01)
    time.sleep(1)
    (Path(work.output_dir) / "saved").touch()
    return {}


def end_itself(work: Work) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)


def order(folder: Path) -> str:
    return (folder / "order.txt").read_text()


KILLED = """
import multiprocessing, os, sys, threading, time
from dataclasses import dataclass
from pathlib import Path

from tlm_hf.runs.worker_pool import Job, run_jobs

@dataclass
class Work:
    output_dir: str

def wait(work):
    (Path(work.output_dir) / "started").touch()
    time.sleep(600)
    return {}

if __name__ == "__main__":
    folders, begun = [Path(sys.argv[1]) / name for name in "ab"], sys.argv[2] == "at work"
    jobs = [Job(folder.name, wait, Work(str(folder))) for folder in folders]
    threading.Thread(target=run_jobs, args=(jobs, 2, "Testing"), daemon=True).start()
    while len(multiprocessing.active_children()) < 2 or (begun and not all((f / "started").exists() for f in folders)):
        time.sleep(0.01)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os._exit(9)
"""


@pytest.mark.parametrize("when", ["still importing", "at work"])
def test_workers_end_with_a_command_that_is_killed(tmp_path, when):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, script, tmp_path, when], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 9
    workers = [int(number) for number in done.stdout.split()]
    assert len(workers) == 2
    end = time.monotonic() + 60
    while any(is_running(number) for number in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(is_running(number) for number in workers)


def is_running(number: int) -> bool:
    """Whether a process exists and is no zombie that nobody has waited for."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def run_script(folder: Path, *lines: str) -> subprocess.CompletedProcess:
    """Run a script without a `__main__` guard, with `folder` and the names of this file."""
    script = folder / "script.py"
    start = ["import sys", "sys.path.insert(0, sys.argv[1])", "from test_worker_pool import *"]
    script.write_text("\n".join([*start, "folder = Path(sys.argv[2])", *lines, ""]))
    command = [sys.executable, str(script), str(Path(__file__).parent), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_a_script_needs_no_guard(tmp_path):
    done = run_script(tmp_path, "print(sorted(run_jobs([job(folder, 1), job(folder, 2)], 2, 'Testing')))")
    assert done.stdout == "['job 1', 'job 2']\n", done.stderr


def test_an_interruption_ends_idle_workers_and_waits_for_the_others(tmp_path):
    done = run_script(
        tmp_path,
        "def interrupt():",  # when the first job has ended: its worker waits for another one
        "    while not (folder / '2' / 'started').exists(): time.sleep(0.01)",
        "    raise KeyboardInterrupt",
        "run_jobs([job(folder, 1), job(folder, 2, function=save_first)], 2, 'Testing', interrupt)",
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    with pytest.raises(UserError, match="was killed"):  # at work SIGTERM does what it does elsewhere
        run_jobs([job(tmp_path, 3, function=end_itself)], 2, "Testing")
    assert (tmp_path / "2" / "saved").exists()
