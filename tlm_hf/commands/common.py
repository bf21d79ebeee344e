"""What every command shares: one parser, quiet logs, and errors as one sentence with exit code 2."""

import argparse
import copy
import datetime
import errno
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from ..errors import Terminated, UserError, first_line, flag
from ..runs.atomic_files import read_yaml
from ..runs.quiet import quiet_libraries
from .table import BAD_INPUT, Command

INTERRUPTED, TERMINATED = 130, 143
PLACES = (errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS)  # errors of the user's folders


class Parser(HfArgumentParser):
    """HfArgumentParser of a command: `parse` returns what was given, also by `--config`; errors are one sentence."""

    def __init__(
        self, groups: Sequence[type], name: str, about: str, hidden: Collection[str] = (), leading: Sequence[str] = ()
    ) -> None:
        self.titled: dict[str, Any] = {}
        self.command = name
        usage = " ".join([f"tlm {name}", *(f"[{each.upper()}]" for each in leading), "[options]"])
        shown: Any = partial(argparse.HelpFormatter, max_help_position=34, width=118)
        options = {"prog": f"tlm {name}", "usage": usage, "description": about, "formatter_class": shown}
        super().__init__(groups, allow_abbrev=False, **options)
        self.add_argument("--config", help="A YAML file of options by name; the command line wins.")
        for action in self._actions:
            self._show_once(action, hidden)

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        hints = get_type_hints(dtype)
        for entry in (copy.copy(entry) for entry in fields(dtype) if entry.init):
            metadata = dict(entry.metadata)
            title = metadata.pop("group", getattr(dtype, "_argument_group_name", None))
            if title is not None and title not in self.titled:
                self.titled[title] = self.add_argument_group(title)
            parser = self if title is None else self.titled[title]
            entry.metadata, entry.type = metadata, hints[entry.name]  # type: ignore[assignment]
            self._parse_dataclass_field(parser, entry)

    def _show_once(self, action: argparse.Action, hidden: Collection[str]) -> None:
        """Show `--long-name` alone, with its default and choices; what is not given stays out of the namespace."""
        if action.dest == "help" or not action.option_strings:
            return
        default = action.default.value if isinstance(action.default, Enum) else action.default
        if default not in (None, "", False, argparse.SUPPRESS) and default != []:
            shown = " ".join(map(str, default)) if isinstance(default, list) else default
            action.help = f"{action.help or ''} (default: {shown})".strip()
        action.default = argparse.SUPPRESS
        if action.dest in hidden or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        action.option_strings = [flag(action.dest)]
        if action.type is string_to_bool and action.nargs is None:  # `bool | None`: the bare option means true
            action.nargs, action.const = "?", True

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2 and one sentence."""
        sys.stderr.write(f"error: {message} (tlm {self.command} --help lists the options).\n")
        raise SystemExit(BAD_INPUT)

    def parse(self, argv: Sequence[str] | None) -> dict[str, Any]:
        """The options that were given, by name."""
        words = list(sys.argv[1:] if argv is None else argv)
        namespace, unknown = self.parse_known_args(words)
        if "config" in namespace:
            namespace, unknown = self.parse_known_args(self._read_config(namespace.config) + words)
            del namespace.config
        if unknown:
            from ..training.options import suggest  # which imports torch

            guess = suggest(unknown[0].partition("=")[0], [name.strip("-") for name in self._option_string_actions])
            self.error(f"there is no option {unknown[0]!r}{guess}")
        return vars(namespace)

    def _read_config(self, file: str) -> list[str]:
        try:
            options = read_yaml(Path(file).expanduser()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            self.error(f"the file {file} cannot be read as YAML ({first_line(error)})")
        if not isinstance(options, dict):
            self.error(f"the file {file} holds no options: write `name: value` lines")
        words = []
        for name, value in options.items():
            if value is not None:
                values = value if isinstance(value, list) else [value]
                words += [
                    f"--{name}",
                    *(str(each) if isinstance(each, str | datetime.date) else json.dumps(each) for each in values),
                ]
        return words


def run_named(name: str, command: Command, argv: Sequence[str]) -> None:
    """Parse the words after a command's name, and call its function."""
    words, named = list(argv), []
    for option in command.leading:
        if words and not words[0].startswith("-"):
            named += [f"--{option}", words.pop(0)]
    parser = find_parser(name, command)
    preset = {"what": name.partition(" ")[2]} if "--what" in parser._option_string_actions else {}
    options, function = parser.parse([*named, *words]) | preset, _find(command.function)

    def call() -> Any:
        record = get_type_hints(function).get("arguments")
        return function(record(**options)) if record else function(**options)

    run_command(call, command.printed)


def find_parser(name: str, command: Command) -> Parser:
    """The parser of a command, whose code is imported only where its options are part of it."""
    about = command.about[0].upper() + command.about[1:]
    if command.options:
        module = importlib.import_module(f"..{command.options}", __package__)
        about = f"{about}; the same command continues a run."
        return Parser(module.GROUPS, name, about, getattr(module, "REFUSED", ()), command.leading)
    function = _find(command.function)
    return Parser([get_type_hints(function)["arguments"]], name, f"{about}.", {"what"}, command.leading)


def _find(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(f"..{module}", __package__), name)


def _terminate(number: int, frame: Any) -> NoReturn:
    raise Terminated


def run_command(function: Callable[[], dict[str, Any] | None], summary: Sequence[str] = ()) -> None:
    """Call `function` and print the named parts of its results; leaves with 0, 2 (bad input), 130 or 143 (SIGTERM)."""
    quiet_libraries()
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        results = function()
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(BAD_INPUT) from None
    except OSError as error:
        if error.errno not in PLACES or error.filename is None:
            raise
        remedy = "free space, or choose a place that can be read and written"
        sys.stderr.write(f"error: {error.filename}: {error.strerror} ({remedy}).\n")
        raise SystemExit(BAD_INPUT) from None
    except KeyboardInterrupt as interrupt:
        saved = "what was saved (checkpoints, finished runs)"
        sys.stderr.write(f"Interrupted: the same command continues from {saved}, or else begins again.\n")
        raise SystemExit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
    from ..runs.output_folder import is_main_process  # which imports torch

    if results is not None and is_main_process():
        printed = {key: results[key] for key in summary if key in results}
        texts = [printed.pop(key) for key, value in [*printed.items()] if isinstance(value, str) and "\n" in value]
        texts += [json.dumps(printed, indent=2, ensure_ascii=False)] if printed else []
        try:
            for text in texts:
                print(text, flush=True)
        except BrokenPipeError:  # `| head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
