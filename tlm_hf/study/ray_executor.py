"""The study's runs on a Ray cluster with shared folders; those of a dead node go on elsewhere. Its simulated time."""

import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from ..errors import UserError, refusing
from ..runs.atomic_files import Json

RETRIES = 3
SLOTS = 8  # runs that a node does at once: one for each core or GPU
LOST_SECONDS = 1200.0  # lost at most when a node dies: 10 minutes since the checkpoint, 10 until the run goes on


class RayExecutor(Executor):
    """The cluster of an address (None: RAY_ADDRESS, or this machine) for `run_jobs`; a job takes a CPU, and a GPU."""

    def __init__(self, address: str | None = None) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        remedy = "set RAY_ADDRESS to a running one"
        with refusing("No Ray cluster answers", remedy, ConnectionError, RuntimeError, ValueError):
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        self._ray = ray
        self._references: list[Any] = []
        self._kind = "GPU" if ray.cluster_resources().get("GPU") else "CPU"  # a cluster without GPUs trains on CPUs
        options: Json = {"num_cpus": 1, "num_gpus": int(self._kind == "GPU"), "max_retries": RETRIES}
        self._remote = ray.remote(scheduling_strategy="SPREAD", **options)

    def slots(self) -> int:
        """How many jobs the cluster runs at once."""
        return max(1, int(self._ray.cluster_resources().get(self._kind, 1)))

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Send a job; what it raises comes back as it was raised."""
        outcome: Future[Any] = Future()
        reference = self._remote(function).remote(*arguments)
        self._references.append(reference)

        def pass_on(done: Future[Any]) -> None:
            error = done.exception()
            if error is None:
                outcome.set_result(done.result())
            elif isinstance(error, self._ray.exceptions.RayTaskError):
                outcome.set_exception(error.cause)
            else:
                words = f"it ended {RETRIES + 1} times with its node ({type(error).__name__})"
                outcome.set_exception(UserError(f"{words}: start the same command again, it continues."))

        reference.future().add_done_callback(pass_on)
        return outcome

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Wait for the jobs in flight; cancel them when interrupted."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            for reference in self._references:
                self._ray.cancel(reference, force=True)
        elif self._references:
            self._ray.wait(self._references, num_returns=len(self._references))
        self._ray.shutdown()


def makespan(
    seconds: Mapping[str, float], after: Mapping[str, Sequence[str]], nodes: int, seconds_to_death: float = float("inf")
) -> float:
    """Seconds of all runs, in the order given, each after others, on nodes with exponentially distributed lives."""
    generator = np.random.default_rng(0)
    waiting, now = list(seconds), 0.0
    busy: list[tuple[float, str]] = []
    done: set[str] = set()
    while len(done) < len(seconds):
        ready = [name for name in waiting if done.issuperset(after[name])]
        for name in ready[: SLOTS * nodes - len(busy)]:
            waiting.remove(name)
            deaths = generator.poisson(seconds[name] / seconds_to_death)
            heapq.heappush(busy, (now + seconds[name] + deaths * LOST_SECONDS, name))
        now, name = heapq.heappop(busy)
        done.add(name)
    return now
