"""The study's runs as tasks of a Ray cluster: each is retried on another node when its own dies.

Records and work folders must be on a path that all nodes share: a run that moves continues from its checkpoint there.
Inside a run Accelerate does the parallel work; between runs Ray only schedules.
"""

import os
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from ..errors import UserError
from ..runs.atomic_files import Json
from ..runs.worker_pool import Elsewhere

RETRIES = 3


class RayExecutor(Elsewhere):
    """A cluster, for `run_jobs`.

    Args:
        address: the cluster's; None for the variable RAY_ADDRESS, or a cluster of this machine alone.
        gpus: GPUs that each job takes beside one CPU.

    Raises:
        UserError: no cluster at the address, or one with fewer GPUs.
    """

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
                outcome.set_result(done.result())
            elif isinstance(error, self._ray.exceptions.RayTaskError):
                outcome.set_exception(error.cause)
            else:
                words = (
                    f"ended {RETRIES + 1} times with its node ({type(error).__name__}): start the same command again"
                )
                outcome.set_exception(UserError(f"it {words}, it continues."))

        reference.future().add_done_callback(pass_on)
        return outcome

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Wait for the jobs in flight; cancel them when interrupted: they continue from their last checkpoints."""
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            for reference in self._references:
                self._ray.cancel(reference, force=True)
        elif self._references:
            self._ray.wait(self._references, num_returns=len(self._references))
        self._ray.shutdown()


def _call(function: Callable[..., Any], *arguments: Any) -> None:
    """Body of a task; results are read from the shared folder."""
    function(*arguments)
