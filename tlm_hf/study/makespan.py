"""How long a study takes on a cluster whose nodes die: a simulation of what `ray_executor` does."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SLOTS = 8
"""Runs that a node does at once: one for each core or GPU."""
CHECKPOINT_SECONDS = 600.0
"""What a run loses at most when its node dies."""
REPLACED_AFTER = 600.0
"""Seconds until a dead node is back."""


@dataclass(frozen=True)
class Work:
    """A run of so many seconds, which comes after others."""

    seconds: float
    after: Sequence[str]


def makespan(runs: Mapping[str, Work], nodes: int, seconds_to_death: float = float("inf"), seed: int = 0) -> float:
    """Seconds from the first run's start to the last one's end.

    Runs start in the order given as soon as a slot is free and those that they come after are done. Each node dies
    after an exponentially distributed time; its runs go on elsewhere from their last checkpoints.
    """
    generator = np.random.default_rng(seed)
    left, waiting, done = {name: run.seconds for name, run in runs.items()}, list(runs), set[str]()
    free = [node for _ in range(SLOTS) for node in range(nodes)]
    deaths = generator.exponential(size=nodes) * seconds_to_death
    busy: list[
        tuple[float, str, int, float]
    ] = []  # until when, what (empty: a node that is being replaced), where, since
    now = 0.0
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
