"""The study's runs as tasks of a Ray cluster: each retried on another node when its own dies.

Records and work folders must lie on a path that all nodes share: a run that moves continues from its checkpoint there.
Inside a run Accelerate does the parallel work; between runs Ray only schedules.
"""

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm.auto import tqdm

from ..errors import UserError
from ..runs.worker_pool import Job

logger = logging.getLogger(__name__)
RETRIES = 3
POLL_SECONDS = 1.0


def check_ray() -> None:
    """Raise UserError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError('--executor ray needs the extra "cluster": pip install "tlm-hf[cluster]".')


def run_on_ray(wanted: Callable[[], Sequence[Job]], address: str | None = None, gpus: float = 0.0) -> None:
    """Do jobs on a cluster until none is wanted.

    Args:
        wanted: gives the jobs that are to be done from now on, in order of preference; asked again when one has ended.
        address: the cluster's; None for the variable RAY_ADDRESS, or a cluster of this machine alone.
        gpus: GPUs that each job takes, 0 for CPUs alone; a job takes one CPU.

    Raises:
        UserError: Ray is not installed, no cluster answers at the address, or what a job raises, after the
            others in flight have ended.
        KeyboardInterrupt: interrupted; the jobs are cancelled and continue from their last checkpoints.
    """
    check_ray()
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    mine = not ray.is_initialized()
    if mine:
        try:
            fresh: dict[str, Any] = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
            ray.init(address=address, log_to_driver=False, **fresh)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"No Ray cluster answers at {address} ({error}): give another --ray-address.") from error
    if gpus and ray.cluster_resources().get("GPU", 0) < gpus:
        raise UserError(
            f"--gpus-per-run is {gpus:g} but the cluster has {ray.cluster_resources().get('GPU', 0):g} GPUs: give less."
        )
    options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES, "scheduling_strategy": "SPREAD"}
    remote = ray.remote(**options)(_work)
    flying: dict[Any, Job] = {}
    finished: set[str] = set()
    try:
        with tqdm(desc="Study on Ray", unit="run", file=sys.stderr) as bar:
            waiting = list(wanted())
            while waiting or flying:
                running = {job.name for job in flying.values()}
                # What waits in the cluster would be started after --stop-after too: no more than it works on at once.
                there = ray.cluster_resources()
                slots = int(there.get("CPU", 1))
                if gpus:
                    slots = min(slots, int(there.get("GPU", 0) / gpus))
                for job in waiting:
                    if len(flying) >= max(1, slots):
                        break
                    if job.name not in running | finished and finished.issuperset(job.after):
                        flying[remote.remote(job.function, job.arguments)] = job
                if not flying:
                    break
                known = {job.name for job in waiting} | {job.name for job in flying.values()} | finished
                bar.total = len(known)
                done, _ = ray.wait(list(flying), num_returns=1, timeout=POLL_SECONDS)
                for reference in done:
                    job = flying.pop(reference)
                    try:
                        _result(ray, reference, job)
                    except Exception as error:
                        if flying:  # end first, as on one machine: what they have done since a checkpoint is kept
                            logger.error("%s failed (%s); waiting for the other runs in hand.", job.name, error)
                            ray.wait(list(flying), num_returns=len(flying))
                            flying.clear()
                        raise
                    finished.add(job.name)
                    bar.update(1)
                if done:
                    waiting = [job for job in wanted() if job.name not in finished]
    finally:
        for reference in flying:
            ray.cancel(reference, force=True)
        if mine:
            ray.shutdown()


def _work(function: Callable[[Any], dict[str, Any]], arguments: Any) -> bool:
    """Body of a task; results are read from the shared folder, so only success comes back."""
    from ..runs.worker_pool import work

    work(function, arguments)
    return True


def _result(ray: Any, reference: Any, job: Job) -> None:
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        raise
    except ray.exceptions.RayError as error:
        raise UserError(
            f"The run {job.name} ended {RETRIES + 1} times with its node ({type(error).__name__}): start the same "
            "command again, it continues."
        ) from error
