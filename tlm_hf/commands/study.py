"""`tlm study plan|run|report|demo`: the paper's four findings (`study.study`, `study.report`)."""

import sys
from collections.abc import Callable, Sequence

from ..errors import UserError
from ..runs.atomic_files import Json
from ..study.demo import stage_study_demo
from ..study.report import write_report
from ..study.study import StudyArguments, run_study, show_plan
from .common import parse, run_command

WHAT: dict[str, tuple[Callable[[StudyArguments], Json], tuple[str, ...]]] = {
    "plan": (show_plan, ()),
    "run": (run_study, ("done", "missing", "waiting")),
    "report": (write_report, ("report",)),
    "demo": (stage_study_demo, ("demo", "tasks")),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to do) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--what")
    arguments = parse(StudyArguments, "study", __doc__ or "", words)
    function, summary = WHAT.get(arguments.what, (_refuse, ()))

    def run() -> Json:
        results = function(arguments)
        if "table" in results:
            print(results["table"])
        return results

    run_command(run, summary)


def _refuse(arguments: StudyArguments) -> Json:
    raise UserError(f"study {arguments.what}: say what to do, one of {', '.join(WHAT)}.")
