"""`tlm study plan|run|report|demo`: the paper's four findings (`study.study`, `study.report`, `study.study_demo`)."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UserError
from ..study.report import write_report
from ..study.study import StudyArguments, run_study, show_plan
from ..study.study_demo import stage_study_demo
from .common import parse, run_command

WHAT: dict[str, tuple[Callable[[StudyArguments], dict[str, Any]], tuple[str, ...]]] = {
    "plan": (show_plan, ()),
    "run": (run_study, ("done", "missing", "waiting")),
    "report": (write_report, ("report", "findings")),
    "demo": (stage_study_demo, ("demo", "tasks")),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to do) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--what")
    arguments = parse(StudyArguments, "study", __doc__ or "", words)

    def run() -> dict[str, Any]:
        if arguments.what not in WHAT:
            raise UserError(f"study {arguments.what}: say what to do, one of {', '.join(WHAT)}.")
        found = WHAT[arguments.what][0](arguments)
        if "table" in found:
            print(found["table"])
        return found

    run_command(run, WHAT.get(arguments.what, (None, ()))[1])
