"""What a release file may not hold: one sentence with the line, for everything that YAML can write.

Oracles: the line of the planted text, and git's own opinion of names of branches.
"""

import subprocess
from pathlib import Path

import pytest

from tlm_hf.errors import UserError
from tlm_hf.hub.release_file import read_release

HEAD = "version: 0.1.0\nnamespace: tiny-lab\n"
WHOLE = HEAD + "encoders:\n  tlm-a: {run: runs}\n"
NINES = "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CASES = {
    "alias in itself": (HEAD + "encoders: &x\n  tlm-a: *x\n", 3, "contains itself"),
    "list in itself": (HEAD + "data: [&x [*x]]\n", 3, "contains itself"),
    "billions by aliases": (HEAD + f"a: &a [x, x, x, x, x, x, x, x, x]\n{NINES}", None, "more than 20,000 values"),
    "unknown alias": (WHOLE + "  tlm-b: *nope\n", 5, "undefined alias"),
    "merge": (WHOLE + "  tlm-b: {<<: {run: runs}}\n", 5, "<<"),
    "object": (WHOLE + "  tlm-b: {run: !!python/object:os.system x}\n", 5, "tag"),
    "call": (WHOLE + "  tlm-b: !!python/object/apply:os.system [x]\n", 5, "tag"),
    "set": (WHOLE + "  tlm-b: !!set {run}\n", 5, "tag"),
    "ordered": (WHOLE + "  tlm-b: !!omap [run: runs]\n", 5, "tag"),
    "binary": (WHOLE + "  tlm-b: {run: !!binary '$$$'}\n", 5, "tag"),
    "own tag": (WHOLE + "  tlm-b: {run: !foo runs}\n", 5, "tag"),
    "tagged number": (WHOLE + "licence: !!int mit\n", 5, "licence"),
    "quoted number": (WHOLE + "licence: !!float 'mit'\n", 5, "tag"),
    "two documents": (WHOLE + "---\na: b\n", 5, "second document"),
    "list as key": (WHOLE + "  ? [a, b]\n  : {run: runs}\n", 5, "key"),
    "mapping as key": (WHOLE + "  {a: b}: {run: runs}\n", 5, "key"),
    "template": (WHOLE + "  tlm-b: {run: {{ folder }}}\n", 5, "key"),
    "nothing as key": (WHOLE + "  ~: {run: runs}\n", 5, "key"),
    "lines as key": (WHOLE + '  "tlm\\nb": {run: runs}\n', 5, "key"),
    "number as name": (WHOLE + "  1.50: {run: runs}\n", 5, 'quote it ("1.50")'),
    "yes as name": (WHOLE + "  yes: {run: runs}\n", 5, 'quote it ("yes")'),
    "number as branch": (WHOLE + "  tlm-b: {run: runs, revisions: {2024: runs}}\n", 5, 'quote it ("2024")'),
    "on as branch": (WHOLE + "  tlm-b: {run: runs, revisions: {on: runs}}\n", 5, 'quote it ("on")'),
    "NUL": (WHOLE + "# \0\n", 5, "U+0000"),
    "bell": (WHOLE + "# \a\n", 5, "U+0007"),
    "escaped NUL": (WHOLE + '  tlm-b: {run: "a\\0b"}\n', 5, "U+0000"),
    "half a character": (WHOLE + '  tlm-b: {run: runs, corpus: "\\ud800"}\n', 5, "U+D800"),
    "no character": (WHOLE + '  tlm-b: {run: "\\UFFFFFFFF"}\n', 5, "escape"),
    "lines in a path": (WHOLE + '  tlm-b: {run: "a\\nb"}\n', 5, "one line"),
    "tab": (WHOLE + "\ttlm-b: {run: runs}\n", 5, "YAML"),
    "date": (HEAD.replace("0.1.0", "2026-01-02"), 1, 'quote it ("2026-01-02")'),
    "no date": (HEAD.replace("0.1.0", "2026-13-45"), 1, 'quote it ("2026-13-45")'),
    "short version": (HEAD.replace("0.1.0", "0.10"), 1, 'quote it ("0.10")'),
    "Norwegian": (WHOLE + "language: no\n", 5, 'quote it ("no")'),
    "paper": (WHOLE + "collection: {title: x, papers: [2507.14870]}\n", 5, 'quote it ("2507.14870")'),
    "nothing": (HEAD.replace("0.1.0", ""), 1, "nothing stands there"),
    "nothing in a list": (WHOLE + "  tlm-b: {run: runs, data: [~]}\n", 5, "nothing stands there"),
    "mapping in a list": (WHOLE + "  tlm-b: {run: runs, data: [{a: b}]}\n", 5, "a mapping stands there"),
    "empty entry": (WHOLE + "  tlm-b:\n", 5, "mapping"),
    "empty text as section": (WHOLE + "data: ''\n", 5, "mapping"),
    "list as section": (WHOLE + "data: [a]\n", 5, "mapping"),
    "number as section": (WHOLE + "data: 0\n", 5, "mapping"),
    "deep list": (HEAD + f"encoders: {'[' * 5000}{']' * 5000}\n", 3, "levels deep"),
    "deep mapping": (HEAD + f"encoders: {'{a: ' * 3000}{'}' * 3000}\n", 3, "levels deep"),
    "no user": (WHOLE + "  tlm-b: {run: ~nobody-of-that-name/x}\n", 5, "no such user"),
    "long path": (WHOLE + f"  tlm-b: {{run: {'x' * 5000}}}\n", 5, "no folder"),
    "base is a data set": (
        WHOLE + "data:\n  tlm-d: {folder: runs}\nclassifiers:\n  tlm-c: {run: runs, base: tlm-d}\n", 8,
        "of the kind data",
    ),
    "data is an encoder": (WHOLE + "  tlm-b: {run: runs, data: [tlm-a]}\n", 5, "of the kind encoder"),
    "committee is an encoder": (
        WHOLE + "spaces:\n  tlm-d: {demo: runs, committees: {x: tlm-a}}\n", 6, "of the kind encoder",
    ),
    "link to no repository": (WHOLE + "  tlm-b: {run: runs, data: [../x]}\n", 5, "no name for a repository"),
    "own name in full": (
        WHOLE + "classifiers:\n  tlm-c: {run: runs, base: tiny-lab/tlm-a}\n", 6, "write it as tlm-a",
    ),
}  # fmt: skip


@pytest.fixture
def read(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)

    def read(text):
        Path("release.yaml").write_text(text, encoding="utf-8")
        return read_release("release.yaml")

    return read


@pytest.mark.parametrize("name", CASES)
def test_one_sentence_with_the_line(read, one_sentence, name):
    text, line, words = CASES[name]
    with pytest.raises(UserError) as refusal:
        read(text)
    message = one_sentence(refusal.value)
    assert words in message
    if line is not None:
        assert f"line {line}" in message


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "encoders:\n  tlm-a: {run: &r runs, data: &d []}\n  tlm-b: {run: *r, data: *d}\n",
        WHOLE.replace("0.1.0", "!!str 0.1.0"),
        "%YAML 1.1\n---\n" + WHOLE + "...\n",
        "\ufeff" + WHOLE,
        WHOLE + "data:\n",
        WHOLE + "collection:\n  title: x\n  description: |\n    Two\n    lines.\n",
    ],
)
def test_what_yaml_may_do(read, text):
    assert read(text).entries[-1].run == Path("runs")


GOOD = ("seed-1", "step-500", "_x", "v1", "v1.2", "1.2.3", "a.b", "x" * 100, "deadbeef", "locked")
BAD = (
    "main", "HEAD", "refs", "refs/heads/x", "a/b", "..", "a..b", "a.", "a.lock", "a@{b", "@", "-x", ".a", "a b", "a~1",
    "a^", "a:b", "a?", "a*", "a[", "a\\b", "v1.2.3", "0" * 40, "aB" * 20, "x" * 300, "ünï",
)  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_branches_that_git_takes(read, name):
    subprocess.run(["git", "check-ref-format", "--branch", name], check=True, capture_output=True)
    assert list(read(WHOLE.replace("run: runs", f"run: runs, revisions: {{'{name}': runs}}")).entries[0].revisions) == [
        name
    ]


@pytest.mark.parametrize("name", BAD)
def test_branches_that_git_or_the_hub_takes_for_something_else(read, one_sentence, name):
    with pytest.raises(UserError) as refusal:
        read(WHOLE.replace("run: runs", f"run: runs, revisions: {{'{name}': runs}}"))
    assert "no name of a branch" in one_sentence(refusal.value)
    assert "line 4:" in str(refusal.value)
