"""YAML as release files use it: text, lists and mappings, each key with its line, and nothing that makes objects."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

DEEPEST = 8
"""Levels of nesting; a release file has 4."""
MOST_VALUES = 20_000
"""Values in all: aliases of aliases can write billions of them in a few lines."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that no text has, half a character (a lone surrogate) among them."""
MAPPING, SEQUENCE, TEXT, NOTHING, MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "null", "merge")
)
NUMBERS = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "timestamp", "value"))


@dataclass(frozen=True)
class Unquoted:
    """What YAML takes for a number, a date, or yes and no, where it stands without quotes; a release file has none.

    Args:
        written: as it stands there.
    """

    written: str

    def __repr__(self) -> str:
        return self.written

    @property
    def hint(self) -> str:
        """What is wrong with it, to go on a sentence."""
        return f'and YAML reads {self.written} as something else: quote it ("{self.written}")'


class Reader:
    """A YAML file with the line of every key, so that each refusal can name it.

    Args:
        path: the file.

    Raises:
        UserError: one sentence, with the line: the file cannot be read, is no YAML, is more than one document, or has
            what a release file does not need (tags, merge keys, keys that are no text, control characters, something
            that contains itself).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[tuple[Any, ...], int] = {}
        self._open: list[yaml.Node] = []
        self._built = 0
        node = self._compose()
        self.value = None if node is None else self._build(node, ())

    def refusal(self, where: tuple[Any, ...], sentence: str) -> UserError:
        """The error for a key, or for the nearest one above it that has a line."""
        while where not in self.lines and where:
            where = where[:-1]
        return self._at(self.lines.get(where, 1), sentence)

    def _at(self, line: int, sentence: str) -> UserError:
        return UserError(f"The release file {self.path}, line {line}: {sentence}.")

    def _compose(self) -> yaml.Node | None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise UserError(f"The release file {self.path} cannot be read ({reason}): name one that exists.") from error
        line = 1
        try:
            depth = documents = 0
            for event in yaml.parse(text, Loader=yaml.SafeLoader):  # without recursion, as `compose` is not
                line = event.start_mark.line + 1
                depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
                documents += isinstance(event, yaml.DocumentStartEvent)
                if depth > DEEPEST:
                    raise self._at(line, f"it is nested more than {DEEPEST} levels deep: a release file has 4")
                if documents > 1:
                    raise self._at(line, "a second document begins: leave out the ---, or make it a file of its own")
            return yaml.compose(text, Loader=yaml.SafeLoader)
        except UserError:  # a ValueError as well
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = ", ".join(filter(None, (error.context, error.problem)))
            raise UserError(
                f"The release file {self.path}, line {mark.line + 1 if mark else line}, is no YAML: {what}."
            ) from error
        except yaml.reader.ReaderError as error:
            raise self._at(
                text.count("\n", 0, error.position) + 1, f"the character U+{error.character:04X} is no text"
            ) from error
        except (ValueError, OverflowError) as error:  # "\UFFFFFFFF"
            raise self._at(line, "from here on an escape (\\U...) names no character") from error

    def _build(self, node: yaml.Node, where: tuple[Any, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(where, line)
        self._built += 1
        if self._built > MOST_VALUES:
            raise self._at(line, f"with its aliases it has more than {MOST_VALUES:,} values: write them out")
        if any(node is each for each in self._open):
            raise self._at(line, "what is anchored here contains itself: write it out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        if node.tag not in (MAPPING, SEQUENCE):
            raise self._at(line, f"the tag {node.tag!r} means nothing in a release file: leave it out")
        self._open.append(node)
        if isinstance(node, yaml.SequenceNode):
            found: Any = [self._build(item, (*where, place)) for place, item in enumerate(node.value)]
        else:
            found = self._mapping(node, where)
        self._open.pop()
        return found

    def _scalar(self, node: yaml.ScalarNode, line: int) -> str | Unquoted | None:
        if node.tag == NOTHING:
            return None
        if node.tag in NUMBERS and node.style is None:
            return Unquoted(node.value)
        if node.tag != TEXT:
            raise self._at(line, f"the tag {node.tag!r} means nothing in a release file: leave it out")
        if found := CONTROL.search(node.value):
            raise self._at(line, f"the text holds the character U+{ord(found.group()):04X}: take it out")
        return str(node.value)

    def _mapping(self, node: yaml.Node, where: tuple[Any, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, item in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == MERGE:
                raise self._at(line, "<< (merge) is not read: write the keys out")
            key = self._scalar(key_node, line) if isinstance(key_node, yaml.ScalarNode) else [...]
            if isinstance(key, Unquoted):
                raise self._at(line, f"a key must be text {key.hint}")
            if not isinstance(key, str) or not key.strip() or "\n" in key:
                raise self._at(line, "a key must be text on one line: write a name before the colon")
            self.lines[(*where, key)] = line
            if key in found:
                raise self._at(line, f"{key!r} stands there twice: leave one of them out")
            found[key] = self._build(item, (*where, key))
        return found
