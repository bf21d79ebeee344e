"""English paragraphs out of Python docstrings: reading (never running) sources, cleaning, dropping near-duplicates.

`docstrings.py` decides which packages to read, how to split the result and where to keep it.
"""

import ast
import hashlib
import itertools
import re
import string
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

MIN_WORDS, MAX_WORDS = 20, 150
MIN_STOP_WORD_SHARE, MIN_PLAIN_WORD_SHARE = 0.2, 0.8
SHINGLE_WORDS = 5  # for overlap with everything kept so far
PAIR_SHINGLE_WORDS = 3  # for overlap of two texts

# Folders of tests, and of other projects' code copied into a package (it would be counted as the wrong library's text).
_FOLDERS = (
    "tests test testing _testing _vendor _vendored vendored vendor third_party externals _external extern "
    "array_api_compat array_api_extra templates __pycache__"
)
SKIPPED_FOLDERS = frozenset(_FOLDERS.split())
_STOP_WORDS = (
    "a about after all also an and any are as at be because been before being between both but by can cannot "
    "could did do does each either else even every for from had has have how however i if in instead into is it "
    "its itself may might more most must no not of on once one only or other otherwise our over same should since "
    "so some such than that the their them then there these they this those through thus to under unless until up "
    "use used using very was we were what when where whether which while who will with within without would you "
    "your"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())

_FENCE = re.compile(r"^\s*(```|~~~)")
_UNDERLINE = re.compile(r"^\s*([=\-~^\"'#*+`_.:])\1{2,}\s*$")
_TABLE_ROW = re.compile(r"\S {3,}\S|^\s*[|+]|\|\s*$|^[\s=\-]+$")
_HEADING = re.compile(r"^\s*(#{1,6}\s.*|[A-Z][\w ]{0,30}:)$")
_DROPPED_DIRECTIVE = re.compile(
    r"^\s*\.\. *(?!(?:note|warning|tip|hint|important|caution|attention|seealso|admonition|topic|rubric)::)\S.*$"
)
_KEPT_DIRECTIVE = re.compile(r"^(\s*)\.\. *\w+::\s*")
_LIST_ITEM = re.compile(r"^(?:[-*+•]|\(?(?:\d{1,2}|[a-z])[.)])\s+")
_FIELD = re.compile(r"^(?::\w+[^:`]*:(?!`)|@\w+[^:]*:)\s*")
# "name (type): text" and "name: text" of the Google style; "name : type" of the numpy style is dropped as a signature.
_GOOGLE_ENTRY = re.compile(
    r"^[`*]{0,3}[A-Za-z_][\w.\-, \[\]]{0,40}?[`*]{0,2}(?: ?\((?:[^()]|\([^()]*\))*\))?[`*]{0,2}:\s+"
)
_NUMPY_SIGNATURE = re.compile(r"^[`*]{0,3}\\?[\w.`*\[\]]+(?:, ?[`\\\w.*]+)* :(?: |$)")
_SKIPPED_SECTIONS = frozenset({"references", "reference", "see also", "methods", "bibliography", "further reading"})

_LOST = "\ufffd"  # stands where taking a reference away leaves a hole in the sentence; such a paragraph is dropped
_FOOTNOTE = r"\[(?:\d+|[A-Z]\w*\d+\w*|#\w*)\]_+"
_INLINE = [
    (re.compile(rf"\b(?:in|of|from|see|to|and|or|by|per|with|than|and/or),?\s+{_FOOTNOTE}", re.IGNORECASE), _LOST),
    (re.compile(rf"(?:^|\.\s+|\(\s*){_FOOTNOTE}(?=\s*[a-z,;)])"), _LOST),  # "[1]_ proposed this.", "([1]_, section 2)"
    (re.compile(rf"\s*,?\s*{_FOOTNOTE}"), ""),
    (re.compile(r":(?:ref|doc|numref|eq|cite\w*):`[^`<]*`"), _LOST),
    (re.compile(r"(?<=`)~[\w.]*?(\w+(?:\(\))?)(?=`)"), r"\1"),  # `~a.b.c` -> `c`
    (re.compile(r":(?:\w+:)?[\w-]+:`([^`<]+?)\s*(?:<[^`>]*>)?`"), r"`\1`"),  # :ref:`some text <target>` -> `some text`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <address>`_ -> text
    (re.compile(r"\[([^\[\]]+)\]\([^()\s]*\)"), r"\1"),  # [text](address) -> text
    (re.compile(r"\[(`{1,2}[^`\[\]]+`{1,2})\]"), r"\1"),  # [`a.b`] -> `a.b`
    (re.compile(r"`{1,3}[!.]?([^`]+)`{1,3}_{0,2}"), r"\1"),  # ``code`` -> code, `.Axes.plot` -> Axes.plot
    (re.compile(r"(?<![\w*])\*{1,3}(?=\S)([^*]+?)(?<=\S)\*{1,3}(?![\w*])"), r"\1"),  # **strong** -> strong
    (re.compile(r"\\([_*`|])"), r"\1"),  # \_ -> _
]
_NOT_PROSE = re.compile(
    r"[\\{}|$^`~<>\ufffd]|\w{3,}://|www\.|::|:\w+:|\.\.\.\s*\w|==|--|__|\*\*|\s[=+*/]\s|\.\. "
    r"|, optional [A-Z]|, default:? \S+ [A-Z]"  # a signature that ran into its description
)
_PLAIN_WORD = re.compile(r"^[A-Za-z]+(?:['’/-][A-Za-z]+)*$")
_WORD_EDGES = string.punctuation + "“”‘’"


def source_files(package: Path) -> list[Path]:
    """Python files of a package, by POSIX path (the same on every machine), without tests and vendored copies."""
    files = {path.relative_to(package): path for path in package.rglob("*.py")}
    return [
        files[inner]
        for inner in sorted(files, key=Path.as_posix)
        if SKIPPED_FOLDERS.isdisjoint(inner.parts[:-1]) and not inner.name.startswith(("test_", "conftest"))
    ]


def source_docstrings(source: bytes) -> list[str]:
    """Docstrings of a module and of every class and function in it, cleaned, in the order of the file.

    Args:
        source: as bytes, so that its encoding declaration counts; what does not parse has none.
    """
    if b'"""' not in source and b"'''" not in source:  # a one-line '...' docstring is too short to be a paragraph
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds) and ast.get_docstring(node, clean=False)]
    nodes.sort(key=lambda node: node.body[0].lineno)
    return [ast.get_docstring(node) or "" for node in nodes]


def _strip_blocks(lines: Sequence[str]) -> Iterator[str]:
    """Blank out code, doctests, tables, directives, headings and lists of references."""
    fenced = doctest = skipped_section = False
    drop_deeper_than: int | None = None  # indentation of the line that opened a literal block or a dropped directive
    for number, line in enumerate(lines):
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if _FENCE.match(line):
            fenced = not fenced
            yield ""
            continue
        if not stripped:
            doctest = False
        elif drop_deeper_than is not None and indent <= drop_deeper_than:
            drop_deeper_than = None
        if stripped and _UNDERLINE.match(following) and not _UNDERLINE.match(line):
            skipped_section = stripped.lower().rstrip(":") in _SKIPPED_SECTIONS
            yield ""
            continue
        doctest = doctest or stripped.startswith((">>>", "In ["))
        if fenced or doctest or skipped_section or not stripped or drop_deeper_than is not None:
            yield ""
        elif _DROPPED_DIRECTIVE.match(line):
            drop_deeper_than = indent
            yield ""
        elif _UNDERLINE.match(line) or _TABLE_ROW.search(line) or _HEADING.match(line):
            yield ""
        else:
            directive = _KEPT_DIRECTIVE.match(line)
            if directive:
                yield ""  # the text on the directive's own line starts a paragraph
                line = " " * (indent + 3) + line[directive.end() :]
            elif stripped.endswith("::"):
                drop_deeper_than = indent
                line = line.rstrip()[:-1]
            yield line


def _join_lines(lines: Sequence[str]) -> Iterator[str]:
    """Join lines to paragraphs: they end at blank lines, list items, parameter entries and changes of indentation."""
    current: list[str] = []
    depth = 0
    hanging = False  # the line before opened a list item or an entry, whose further lines stand deeper
    for line in [*lines, ""]:
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        signature = _NUMPY_SIGNATURE.match(text) is not None
        opener = None
        if text and not signature:
            complete = not current or current[-1].endswith((".", ":", "!", "?", ")", "`"))
            opener = _LIST_ITEM.match(text) or _FIELD.match(text) or (_GOOGLE_ENTRY.match(text) if complete else None)
        if current and (not text or opener or signature or (indent != depth and not (hanging and indent > depth))):
            yield " ".join(current)
            current = []
        hanging = opener is not None
        depth = indent
        if text and opener:
            rest = text[opener.end() :]
            entry = _GOOGLE_ENTRY.match(rest)  # "- name (type): text"
            text = rest[entry.end() :] if entry else rest
        if text and not signature:
            current.append(text)


def _clean_inline(text: str) -> str:
    """Take reStructuredText and Markdown marks off a paragraph and join its white space."""
    for pattern, replacement in _INLINE:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_prose(text: str) -> bool:
    """Whether a paragraph without markup reads as English prose.

    It has `MIN_WORDS` to `MAX_WORDS` words, most of them plain words and enough of them stop words, opens with a
    capital letter and closes like a sentence.
    """
    words = text.split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not text[0].isalpha() or not text[0].isupper():
        return False
    if not text.rstrip("\"')”").endswith((".", "!", "?")) or text.endswith("...") or _NOT_PROSE.search(text):
        return False
    if text.count("(") != text.count(")") or text.count("[") != text.count("]") or text.count('"') % 2:
        return False
    bare = [word.strip(_WORD_EDGES) for word in words]
    plain = sum(1 for word in bare if _PLAIN_WORD.match(word))
    stop = sum(1 for word in bare if word.lower() in STOP_WORDS)
    return plain >= MIN_PLAIN_WORD_SHARE * len(words) and stop >= MIN_STOP_WORD_SHARE * len(words)


def docstring_paragraphs(docstring: str) -> list[str]:
    """Paragraphs of English prose in a docstring (numpy, Google, Sphinx or plain style), on one line each, in order.

    Args:
        docstring: cleaned by `inspect.cleandoc`.
    """
    if len(docstring.split()) < MIN_WORDS:  # most are; cleaning never adds words
        return []
    lines = list(_strip_blocks(docstring.expandtabs().splitlines()))
    cleaned = (_clean_inline(text) for text in _join_lines(lines) if len(text.split()) >= MIN_WORDS)
    return [text for text in cleaned if is_prose(text)]


def shingles(text: str, size: int) -> set[bytes]:
    """8-byte hashes of every run of `size` words of a text; case, digits and punctuation do not count.

    A text shorter than one run is a single shingle.
    """
    words = re.sub(r"[^\w\s]+", " ", re.sub(r"\d+", "0", text.lower())).split()
    runs = [words[start : start + size] for start in range(max(1, len(words) - size + 1))]
    return {hashlib.blake2b(" ".join(run).encode(), digest_size=8).digest() for run in runs}


def unique_indices(texts: Sequence[str]) -> list[int]:
    """Indices, ascending, of texts to keep so that no two of them are near-duplicates.

    In the given order, a text is dropped if more than half

    - of its runs of `SHINGLE_WORDS` words occur in texts kept before it, in one or in several (boilerplate is often put
      together from pieces), or
    - of its runs of `PAIR_SHINGLE_WORDS` words occur in one text kept before it, or half of that text's in it (a long
      text may contain a short one, and siblings may differ in a few words).
    """
    kept = []
    seen: set[bytes] = set()
    owners: dict[bytes, list[int]] = {}  # short run -> kept texts that have it
    sizes: dict[int, int] = {}
    for index, text in enumerate(texts):
        long_runs = shingles(text, SHINGLE_WORDS)
        if 2 * len(long_runs & seen) > len(long_runs):
            continue
        runs = shingles(text, PAIR_SHINGLE_WORDS)
        shared = Counter(itertools.chain.from_iterable(owners[run] for run in runs if run in owners))
        if any(2 * count > min(len(runs), sizes[owner]) for owner, count in shared.items()):
            continue
        kept.append(index)
        seen |= long_runs
        sizes[index] = len(runs)
        for run in runs:
            owners.setdefault(run, []).append(index)
    return kept


def file_paragraphs(path: Path) -> list[str]:
    """Paragraphs of a source file; none of one that cannot be read."""
    try:
        source = path.read_bytes()
    except OSError:
        return []
    return [text for docstring in source_docstrings(source) for text in docstring_paragraphs(docstring)]
