"""README and docs/: every number is in a results file, every link leads somewhere, every command and program runs."""

import functools
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path

import mkdocs.commands.build
import numpy as np
import pytest
import transformers
from conftest import ROOT
from helpers_commands import (
    assert_equal_weights,
    labelled_rows,
    shelf,
    succeed,
    unchanged_process,
    write_corpus,
    write_csv,
)
from mkdocs.config import load_config

import tlm_hf
from tlm_hf.commands import common
from tlm_hf.commands.main import main
from tlm_hf.study.quickstart import report_text
from tlm_hf.study.report import write_report
from tlm_hf.study.study import StudyArguments

RESULTS = ROOT / "results"
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ["README.md", *(f"docs/{p}.md" for p in ("tutorials/*", "how-to/load", "how-to/inference-endpoints"))]
SCALES = (1, 100, 1000)
"""A share is shown in percent, seconds in milliseconds."""
SMALL = {
    "pretrain": "--size smoke --max-steps 2 --validation-texts 10 --disable-tqdm",
    "finetune": "--train-per-label 4 --validation-per-label 4 --test-per-label 4 --num-train-epochs 1 --disable-tqdm",
    "committee": "--train-per-label 4 --validation-per-label 4 --test-per-label 4 --disable-tqdm",
    "train-committee": "--encoder none --size smoke --pretrain-steps 2 --num-train-epochs 1 --workers 1",
}
"""What the tests add to the commands of a page, so that they take seconds."""


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def numbers_in(place):
    """The numbers in the files of a folder, or in a file, at every scale, sorted."""
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    numbers = [number for file in files for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", file.read_text())]
    return np.unique(np.outer(np.array(numbers, dtype=float), SCALES))


def is_shown(number, known):
    """Whether a decimal number, as a page writes it, is a known one rounded to its last digit."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return np.abs(known - float(number.replace(",", ""))).min() <= 0.5001 * unit


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_numbers_of_a_tables_row_are_together_in_a_results_file(page):
    text = page.read_text().split("<!-- quickstart-output -->")[0]
    for before, rows in re.findall(r"((?:^[^|\n].*\n)?\n*)((?:^\|.*\n)+)", text, re.MULTILINE):
        shown = [(r, re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?:e[+-]\d+)?(?![\w.])", r)) for r in rows.splitlines()]
        source = re.match(r"<!-- numbers: (.*) -->", before)
        assert source or not any(numbers for _, numbers in shown), f"<!-- numbers: FILES --> is not above {rows}"
        if source and source[1] != "arithmetic":
            places = [numbers_in(place) for place in sorted(RESULTS.glob(source[1]))]
            for row, numbers in shown:
                assert any(all(is_shown(number, known) for number in numbers) for known in places), row


def test_quickstart_output_is_that_of_the_results_file():
    results = json.loads((RESULTS / "quickstart" / "results.json").read_text())
    section = README.read_text().split("<!-- quickstart-output -->")[1].split("<!-- /quickstart-output -->")[0]
    assert report_text(results, "outputs/quickstart").strip() in section
    assert results["report"].strip() in section


def test_the_tutorials_output_is_that_of_the_results_file():
    report = json.loads((RESULTS / "own-table" / "results.json").read_text())["report"]
    page = (ROOT / "docs" / "tutorials" / "own-table.md").read_text()
    _, block, _ = re.split(r"<!-- /?own-table-output -->", page)
    known = {"```text", "```", "...", *(line.rstrip() for line in report.splitlines())}
    assert known >= set(block.strip().splitlines())


@pytest.mark.parametrize("size", ["laptop", "fair"])
def test_the_studys_report_is_that_of_its_records(tmp_path, size):
    results = RESULTS / "study" / size
    (tmp_path / "runs").symlink_to(results / "runs")
    write_report(StudyArguments(size=size, results_dir=str(tmp_path)))
    assert (tmp_path / "rows.json").read_text() == (results / "rows.json").read_text()
    pages = [(folder / "REPORT.md").read_text().splitlines() for folder in (tmp_path, results)]
    written, committed = ([line for line in page if line and not line.startswith("![")] for page in pages)
    assert written == committed


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 220
    assert README.stat().st_size <= 14 * 1024
    assert max(len(line) for line in lines if "accelerate" not in line) <= 120


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *RESULTS.rglob("*.md"), *ROOT.glob("spaces/**/*.md")], ids=name_of
)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_site_builds_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    mkdocs.commands.build.build(config)
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "--mlm-probability" in commands
    assert "MaskingCollator" in (tmp_path / "reference" / "api" / "index.html").read_text()


def blocks(page):
    """Language and source of the cells of a notebook, or of a page's blocks without `<!-- not run: reason -->`."""
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(page.read_text())["cells"] if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in cells]
        return [("bash", source[1:]) if source.startswith("!") else ("python", source) for source in sources]
    pattern = r"(<!-- not run: [^\n]+ -->\n)?^( *)```(bash|python)\n(.*?)^ *```"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return [(language, source) for mark, _, language, source in found if not mark]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_of_a_page_exists(page, monkeypatch):
    monkeypatch.setattr(common, "run_command", lambda *call: None)
    text = page.read_text().replace("\\\n", " ")
    for line in re.findall(r"^ *(tlm .*)$", text, re.MULTILINE):
        main(shlex.split(line, comments=True)[1:])
    assert set(re.findall(r"`(--[a-z0-9-]+)[ `]", text)) <= known_options() | {"--smoke"}


@functools.cache
def known_options():
    """Every option of every command."""
    return set(re.findall(r"`(--[a-z0-9-]+)`", runpy.run_path(str(ROOT / "docs" / "hooks.py"))["commands_page"]()))


def run_line(line, small):
    """A line of a shell block in this process; where it is to be small, on texts of the tests."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["tlm"]:
        if small:
            docstrings = "texts.txt" if words[1] in ("pretrain", "score") else "libraries.csv"
            words = [docstrings if word == "docstrings" else word for word in words]
            words += SMALL.get(words[1], "").split()
        succeed(*words[1:])
    elif words:
        assert words[:2] == ["python", "-m"], f"{line}: mark the block with <!-- not run: reason -->"
        runpy.run_module(words[2], run_name="__main__")


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """The folder of a user who did what the pages say before: a quickstart, tables, a committee."""
    home, release = shelf(), tmp_path / "outputs" / "quickstart" / "release"
    shutil.copytree(home / "encoder", release / "tlm-bert-1-0")
    for place in (release / "tlm-committee-docstrings", tmp_path / "outputs" / "reviews"):
        shutil.copytree(home / "committee", place)
    rows = [{"review": row["text"], "stars": row["label"]} for row in labelled_rows()]
    write_csv(tmp_path / "reviews.csv", rows)
    write_csv(tmp_path / "new.csv", [{"review": row["review"]} for row in rows[:5]])
    write_csv(tmp_path / "libraries.csv", labelled_rows())
    write_corpus(tmp_path / "texts.txt")
    monkeypatch.chdir(tmp_path)
    small = functools.partial(
        tlm_hf.train_committee, encoder=["none"], size="smoke", pretrain_steps=2, num_train_epochs=1, workers=1
    )
    monkeypatch.setattr(tlm_hf, "train_committee", small)
    return tmp_path


@pytest.mark.parametrize("page", [page for pattern in RUN for page in sorted(ROOT.glob(pattern))], ids=name_of)
def test_the_commands_and_programs_of_a_page_run_in_order(page, user_folder):
    if page.stem == "own-table":
        shutil.rmtree("outputs/reviews")
    if page.stem == "inference-endpoints":
        succeed("freeze", "--model", "outputs/reviews", "--output-dir", "outputs/frozen")
    run_blocks(page)


def run_blocks(page):
    names = {"__name__": "page"}
    for language, source in blocks(page):
        with unchanged_process():
            if language == "python":
                exec(compile(source, name_of(page), "exec"), names)
            else:
                for line in source.replace("\\\n", " ").splitlines():
                    run_line(line, small=page.suffix == ".md")


@pytest.mark.slow
def test_the_notebooks_run_in_order(user_folder, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(user_folder)
    for name in ("own-table", "pretrain-and-join", "freeze-and-serve"):
        run_blocks(ROOT / "examples" / "notebooks" / f"{name}.ipynb")


def test_the_examples_run_and_continue(user_folder):
    trainer, loop = (
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"))["main"]
        for name in ("stock_trainer", "resumable_pretraining")
    )
    trainer("texts.txt", "outputs/stock", 2)
    for steps in (1, 2):
        loop("outputs/stock", "texts.txt", "outputs/parts", steps)
    loop("outputs/stock", "texts.txt", "outputs/whole", 2)
    assert_equal_weights(Path("outputs/parts"), Path("outputs/whole"))
    transformers.BertForMaskedLM.from_pretrained("outputs/whole")
