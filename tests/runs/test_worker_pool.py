"""Trainings side by side: order, errors, and workers that end with the command that started them."""

import os
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
    """Argument of the jobs below."""

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
    return {"number": work.number, "process": os.getpid(), "threads": int(os.environ.get("OMP_NUM_THREADS", 0))}


def refuse(work: Work) -> dict[str, int]:
    raise UserError(f"Number {work.number} is bad: give another one.")


def jobs(folder: Path) -> list[Job]:
    """The first job in the list comes after the last one, which comes after the second."""
    after = {1: ("job 3",), 2: (), 3: ("job 2",)}
    return [
        Job(f"job {number}", add_line, Work(str(folder / str(number)), number, 0.1), after=after[number])
        for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_run_after_those_that_they_wait_for(tmp_path, workers):
    before = os.environ.get("OMP_NUM_THREADS")
    results = run_jobs(jobs(tmp_path), workers, "Testing")
    assert {name: result["number"] for name, result in results.items()} == {f"job {n}": n for n in (1, 2, 3)}
    lines = (tmp_path / "order.txt").read_text().splitlines()
    assert lines == ["start 2", "end 2", "start 3", "end 3", "start 1", "end 1"]
    processes = {result["process"] for result in results.values()}
    assert (processes == {os.getpid()}) == (workers == 1)
    if workers > 1:
        assert os.getpid() not in processes
        assert {result["threads"] for result in results.values()} == {1}
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert all((tmp_path / str(number) / "train.log").exists() for number in (1, 2, 3))


@pytest.mark.parametrize("workers", [1, 2])
def test_user_error_of_a_job_comes_out(tmp_path, workers):
    bad = Job("bad", refuse, Work(str(tmp_path / "bad"), 7))
    follower = Job("follower", add_line, Work(str(tmp_path / "follower"), 8), after=("bad",))
    with pytest.raises(UserError, match=r"^Number 7 is bad: give another one\.$"):
        run_jobs([follower, bad], workers, "Testing")
    assert not (tmp_path / "order.txt").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_could_never_start_are_refused(tmp_path, workers):
    lonely = Job("lonely", add_line, Work(str(tmp_path / "lonely"), 1), after=("nobody",))
    with pytest.raises(ValueError, match="lonely"):
        run_jobs([lonely], workers, "Testing")


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_are_wanted_only_later_are_done_too(tmp_path, workers):
    second = Job("job 2", add_line, Work(str(tmp_path / "2"), 2))

    def wanted() -> list[Job]:
        """What comes next hangs on what is there."""
        lines = (tmp_path / "order.txt").read_text()
        return [second] if "end 2" in lines and "end 3" not in lines else []

    results = run_jobs([second], workers, "Testing", wanted)
    assert set(results) == {"job 2"}  # done already, though it is still wanted
    later = Job("job 3", add_line, Work(str(tmp_path / "3"), 3))
    results = run_jobs([second], workers, "Testing", lambda: [] if "end 3" in order(tmp_path) else [second, later])
    assert set(results) == {"job 2", "job 3"}
    assert order(tmp_path).splitlines().count("start 2") == 2  # once in each call


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
    found = subprocess.run([sys.executable, script, tmp_path, when], stdout=subprocess.PIPE, text=True, timeout=120)
    assert found.returncode == 9
    workers = [int(number) for number in found.stdout.split()]
    assert len(workers) == 2
    end = time.monotonic() + 60
    while any(runs(number) for number in workers) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(runs(number) for number in workers)


def runs(number: int) -> bool:
    """Whether a process is there and is no zombie that nobody has waited for."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
