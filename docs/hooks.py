"""What `mkdocs build` makes from the code: the commands' options, the recipes, and the files that pages link to.

The site mirrors the repository: a page `docs/X.md` is at `X`, and any other file that a page links to, such as
`../results/benchmark/pretraining-bert-1.json`, is copied to `results/...`. So the links of a page hold in the checkout
and on the site, and `--strict` fails on one that leads nowhere.
"""

import argparse
import html
import posixpath
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tlm_hf.commands.common import find_parser
from tlm_hf.commands.table import COMMANDS
from tlm_hf.recipes import ARCHITECTURES, PRETRAINING_SCHEDULES, SIZES, Architecture, Schedule, Size, describe_recipes

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?P<target>(?:\.\./)*(?:[\w.-]+/)*[\w.-]+\.\w+)(?=[)#])")
COPIES = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
"""Pages that are files at the top of the checkout."""
TRAINER_OPTIONS = "all of transformers.TrainingArguments"


def repository_path(page: str, target: str) -> str:
    """The file, relative to the checkout, that a link on the page of this source leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and every file outside docs/ that a page links to."""
    for place, content in (("commands", commands_page()), ("recipes", recipes_page())):
        files.append(File.generated(config, f"reference/{place}.md", content=content))
    for page, path in COPIES.items():
        text = (ROOT / path).read_text(encoding="utf-8").replace("](docs/", "](")
        text = text.replace("](CHANGELOG.md)", "](changelog.md)")
        files.append(File.generated(config, page, content=text))
    pages = [(f"docs/{file.src_uri}", file.content_string) for file in files.documentation_pages()]
    while pages:
        page, text = pages.pop()
        for link in LINK.finditer(text):
            path = repository_path(page.removeprefix("docs/") if page[5:] in COPIES else page, link["target"])
            if path.startswith(("docs/", "..")) or files.get_file_from_path(path) or not (ROOT / path).is_file():
                continue
            files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                pages.append((path, (ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/ as the site has them: one folder less upward."""
    source = page.file.src_uri
    if not (Path(config.docs_dir) / source).is_file():
        return markdown

    def on_site(link: re.Match[str]) -> str:
        path = repository_path(f"docs/{source}", link["target"])
        if path.startswith("docs/"):
            return link["target"]
        return posixpath.relpath(path, posixpath.dirname(source) or ".")

    return LINK.sub(on_site, markdown)


def cell(text: Any) -> str:
    """Text in a cell of a Markdown table."""
    return html.escape(str(text), quote=False).replace("|", "\\|").replace("%%", "%").replace("\n", " ")


def option_rows(actions: list[argparse.Action]) -> list[str]:
    """A table of options, without those that `--help` hides."""
    rows = [
        f"| `{action.option_strings[0] if action.option_strings else action.dest.upper()}` | {cell(action.help or '')}"
        f"{' One of: ' + ', '.join(f'`{choice}`' for choice in action.choices) + '.' if action.choices else ''} |"
        for action in actions
        if action.help != argparse.SUPPRESS and action.dest not in ("help", "config")
    ]
    return ["", "| option | what it does |", "|---|---|", *rows, ""] if rows else []


def commands_page() -> str:
    """Every command with its options, from the parsers."""
    lines = [
        "# Commands",
        "",
        "Written from the parsers when this site is built; `tlm COMMAND --help` shows the same.",
        "",
    ]
    lines += ["Every command takes `--config FILE.yaml`, a file of options by name; the command line wins. ", ""]
    lines += ["A command leaves with exit code 0, 2 (bad input, one sentence), 130 (interrupted) or 143 (SIGTERM).", ""]
    for name, command in COMMANDS.items():
        parser = find_parser(name, command)
        shown = " ".join(f"[{option.upper()}]" for option in command.leading)
        lines += [f"## tlm {name}", "", f"{cell(parser.description)}", "", "```text", f"tlm {name} {shown}".strip()]
        lines[-1] += " [options]"
        lines += ["```", *option_rows(parser._actions if not parser.titled else parser._optionals._group_actions)]
        for title, group in parser.titled.items():
            table = option_rows(group._group_actions)
            if title == TRAINER_OPTIONS:
                lines += ["", f'??? note "{title}"', *(f"    {line}" if line else "" for line in table)]
            elif table:
                lines += ["", f"**{title}**", *table]
    return "\n".join(lines)


def field_table(kind: type, entries: list[Any]) -> list[str]:
    """A table of dataclasses: a column for each entry, a row for each field."""
    names = [entry.name for entry in entries]
    lines = ["", "| | " + " | ".join(f"`{name}`" for name in names) + " |", "|---|" + "---|" * len(names)]
    for entry in fields(kind)[1:]:
        values = [getattr(each, entry.name) for each in entries]
        lines.append(
            f"| {entry.name} | " + " | ".join(cell("" if value in (None, ()) else value) for value in values) + " |"
        )
    return [*lines, ""]


def recipes_page() -> str:
    """Architectures, sizes, schedules and the table of `python -m tlm_hf.recipes`."""
    lines = ["# Recipes and sizes", "", "Written from `tlm_hf.recipes` when this site is built.", ""]
    lines += [
        "A run is named `recipe@size`: the recipe is the architecture, the size its width, vocabulary and data.",
        "",
    ]
    parts: list[tuple[str, type, dict[str, Any]]] = [
        ("Recipes (at `paper` width)", Architecture, ARCHITECTURES),
        ("Sizes", Size, SIZES),
        ("Schedules of pre-training", Schedule, PRETRAINING_SCHEDULES),
    ]
    for title, kind, entries in parts:
        lines += [f"## {title}", "", (kind.__doc__ or "").split("\n\n")[0], *field_table(kind, list(entries.values()))]
    note = (describe_recipes.__doc__ or "").replace("\n    ", "\n")
    lines += ["## Parameters", "", note, "", "```text", describe_recipes(), "```", ""]
    return "\n".join(lines)
