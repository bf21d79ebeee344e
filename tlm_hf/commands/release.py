"""`tlm release stage|verify|push|status|reproduce`: a family of repositories, up to the Hub whole or not at all."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import UserError
from ..runs.atomic_files import write_json
from .common import parse, run_command

SECOND = {"stage": "--release-file", "reproduce": "--repo"}
"""What the second word is, where it is no option; with the others it is the folder of the staged release."""
WHAT = ("stage", "verify", "push", "status", "reproduce")


@dataclass
class ReleaseArguments:
    """Options of `tlm release`."""

    what: str = field(default="", metadata={"help": "stage, verify, push, status or reproduce."})
    release_file: str = field(default="release.yaml", metadata={"help": "With stage: the YAML that names it all."})
    output_dir: str = field(
        default="outputs/release", metadata={"help": "Folder of the staged release (of reproduce: of the new run)."}
    )
    data_root: str | None = field(default=None, metadata={"help": "Folder of real text; default: $TLM_DATA."})
    i_have_checked_the_licence: bool = field(
        default=False, metadata={"help": "With stage: rows of AG News or of docstrings may be published again."}
    )
    dry_run: bool = field(default=False, metadata={"help": "With push: only show every file, size and commit."})
    public: bool = field(default=False, metadata={"help": "With push: make everything public in the end."})
    overwrite: bool = field(
        default=False, metadata={"help": "With push: also over what others changed since the last release."}
    )
    target: str | None = field(default=None, metadata={"help": "With push: a folder in place of the Hub."})
    repo: str = field(default="", metadata={"help": "With reproduce: folder or Hub name (or the second word)."})
    revision: str | None = field(default=None, metadata={"help": "With reproduce: a branch or tag of it."})
    run: bool = field(default=False, metadata={"help": "With reproduce: run it again whatever it takes."})
    json: str | None = field(default=None, metadata={"help": "A JSON file for the results."})


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line (the first word says what to do) and run."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "--what")
        if len(words) > 2 and not words[2].startswith("-"):
            words.insert(2, SECOND.get(words[1], "--output-dir"))
    own_output = any(word.split("=")[0].replace("_", "-") == "--output-dir" for word in words)
    arguments = parse(ReleaseArguments, "release", __doc__ or "", words)

    def run() -> dict[str, Any]:
        if arguments.what not in WHAT:
            raise UserError(f"Say what to do with the release, one of {', '.join(WHAT)}, not {arguments.what!r}.")
        found = _function(arguments, own_output)()
        if "table" in found:
            print(found["table"])
        if arguments.json is not None:
            from ..runs.provenance import portable, provenance

            write_json(arguments.json, {**portable(found), **provenance()})
        if found.get("identical") is False:
            raise UserError("The run gave other files than the repository holds: see above what differs.")
        return found

    run_command(run)


def _function(arguments: ReleaseArguments, own_output: bool) -> Callable[[], dict[str, Any]]:
    """What to call; imported here, since each part needs other libraries."""
    if arguments.what == "stage":
        from ..hub.stage import stage

        return lambda: stage(
            arguments.release_file,
            arguments.output_dir,
            data_root=arguments.data_root,
            licence_checked=arguments.i_have_checked_the_licence,
        )
    if arguments.what == "verify":
        from ..hub.verify import verify

        return lambda: verify(arguments.output_dir)
    if arguments.what == "status":
        from ..hub.push import status

        return lambda: status(arguments.output_dir)
    if arguments.what == "reproduce":
        from ..hub.release_reproduce import reproduce

        if not arguments.repo:
            raise UserError("release reproduce needs a repository: a folder, or its name on the Hub.")
        output = arguments.output_dir if own_output else None
        return lambda: reproduce(arguments.repo, revision=arguments.revision, run=arguments.run, output_dir=output)
    if arguments.target is not None:
        from ..hub.release_directory import push_to_directory

        if arguments.public:
            raise UserError("--public is of the Hub, and --target is a folder: leave one of them out.")
        target = arguments.target
        return lambda: push_to_directory(
            arguments.output_dir, target, overwrite=arguments.overwrite, dry_run=arguments.dry_run
        )
    from ..hub.push import push

    return lambda: push(
        arguments.output_dir, public=arguments.public, overwrite=arguments.overwrite, dry_run=arguments.dry_run
    )
