"""The study's runs as tasks of a Ray cluster with shared folders, and a simulation of its time with nodes that die.

A run whose node dies continues on another one from its checkpoint.
"""

import heapq
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..runs.atomic_files import Json

RETRIES = 3
SLOTS = 8
"""Runs that a node does at once: one for each core or GPU."""
CHECKPOINT_SECONDS, REPLACED_AFTER = 600.0, 600.0
"""What a run loses at most when its node dies, and when a dead node is back."""


class RayExecutor(Executor):
    """The cluster of an address (None: RAY_ADDRESS, or this machine) for `run_jobs`; a job takes a CPU and `gpus`."""

    def __init__(self, address: str | None = None, gpus: float = 0.0) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"No Ray cluster answers ({error}): set RAY_ADDRESS to a running one.") from error
        self._ray, self._gpus, self._references = ray, gpus, list[Any]()
        total = ray.cluster_resources().get("GPU", 0)
        if total < gpus:
            raise UserError(f"--gpus-per-run is {gpus:g} but the cluster has {total:g} GPUs: give less.")
        options: Json = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
        self._remote = ray.remote(**options)(_call)

    def slots(self) -> int:
        """How many jobs the cluster runs at once."""
        resources = self._ray.cluster_resources()
        cpus = int(resources.get("CPU", 1))
        return max(1, min(cpus, int(resources.get("GPU", 0) / self._gpus)) if self._gpus else cpus)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **_: Any) -> Future[Any]:
        """Send a job; what it raises comes back as it was raised."""
        reference, outcome = self._remote.remote(function, *arguments), Future[Any]()
        self._references.append(reference)

        def pass_on(done: Future[Any]) -> None:
            error = done.exception()
            if error is None:
                outcome.set_result(None)
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


def _call(function: Callable[..., Any], *arguments: Any) -> None:
    """Body of a task; results are read from the shared folder."""
    function(*arguments)


@dataclass(frozen=True)
class Work:
    """A run of so many seconds, which comes after others."""

    seconds: float
    after: Sequence[str]


def makespan(runs: Mapping[str, Work], nodes: int, seconds_to_death: float = float("inf"), seed: int = 0) -> float:
    """Seconds of all runs on so many nodes, each of which dies after an exponentially distributed time.

    Runs start in the order given when a slot is free and those before them are done; a dead node's go on elsewhere.
    """
    generator = np.random.default_rng(seed)
    left, waiting, done, now = {name: run.seconds for name, run in runs.items()}, list(runs), set[str](), 0.0
    free = [node for _ in range(SLOTS) for node in range(nodes)]
    deaths = generator.exponential(size=nodes) * seconds_to_death
    busy: list[tuple[float, str, int, float]] = []  # until when, run (empty: of a dead node), node, since when
    while len(done) < len(runs):
        for name in [name for name in waiting if done.issuperset(runs[name].after)][: len(free)]:
            waiting.remove(name)
            heapq.heappush(busy, (now + left[name], name, free.pop(0), now))
        node = int(deaths.argmin())
        if busy and busy[0][0] <= deaths[node]:
            now, name, place, _ = heapq.heappop(busy)
            free.append(place)
            done |= {name} if name else set()
            continue
        now = float(deaths[node])
        lost = [(name, since) for _, name, place, since in busy if place == node]
        for name, since in lost:
            left[name] -= (now - since) // CHECKPOINT_SECONDS * CHECKPOINT_SECONDS
        waiting = [name for name, _ in lost] + waiting
        busy = [each for each in busy if each[2] != node] + [(now + REPLACED_AFTER, "", node, now)] * SLOTS
        heapq.heapify(busy)
        free = [place for place in free if place != node]
        deaths[node] = now + REPLACED_AFTER + generator.exponential() * seconds_to_death
    return now
