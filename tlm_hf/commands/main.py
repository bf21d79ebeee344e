"""The console entry `tlm`: finds the command that the first words name. Torch is imported when one is called."""

import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

from ..errors import explain_missing
from .table import BAD_INPUT, COMMANDS


def usage(family: str = "") -> str:
    """The list of commands, or of those whose names begin with a word."""
    rows = [f"  {name:<25}{command.about}" for name, command in COMMANDS.items() if name.startswith(family)]
    return "\n".join(["usage: tlm COMMAND [options]   (tlm COMMAND --help lists its options)", "", *rows])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word or two name; without one, list them."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from .. import __version__

        print(f"tlm-hf {__version__}")
        return
    family = words[0].replace("_", "-") if words and not words[0].startswith("-") else ""
    members = [name for name in COMMANDS if name.startswith(f"{family} ")]
    name = " ".join([family, *words[1:2]]) if members else family
    if not family and words and words[0] not in ("-h", "--help"):
        _refuse(f"there is no option {words[0]!r} before a command (tlm --help lists the commands).")
    if not family or (members and words[1:2] in ([], ["-h"], ["--help"])):
        print(usage(family))
        return
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"did you mean {nearest[0]!r}" if nearest else f"choose one of {', '.join(members or COMMANDS)}"
        _refuse(f"there is no command {name!r}: {remedy} (tlm --help lists them).")
    try:
        from .common import run_named

        run_named(name, COMMANDS[name], words[2 if members else 1 :])
    except ModuleNotFoundError as error:
        explanation = explain_missing((error.name or "").split(".")[0])
        if explanation is None:
            raise
        _refuse(explanation)


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(f"error: {sentence}\n")
    raise SystemExit(BAD_INPUT) from None


if __name__ == "__main__":
    main()
