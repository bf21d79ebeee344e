"""The numbers in the tables of README.md are those of the committed result files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tlm_hf.study.quickstart_report import report_text
from tlm_hf.study.report import write_report
from tlm_hf.study.study import StudyArguments

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SECTIONS = {
    "real-text": ("real_text",),
    "speed": ("benchmark/*.json",),
    "overlap": ("data/overlap.json",),
    "training": ("training/*.json",),
    "frozen": ("benchmark/frozen-*.json",),
    "inference": ("committee/*.json", "committee"),
    "study": ("study/laptop/REPORT.md",),
}
"""Sections between marks, and where under results/ the numbers of a row are together: in one file, or one folder."""
SCALES = (1, 100, 1000)
"""A share is shown in percent, seconds in milliseconds."""


def section_of(name):
    """The part of the README between two marks."""
    return (ROOT / "README.md").read_text().split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def numbers_in(place):
    """The numbers in the files of a folder, or in a file, at every scale, sorted."""
    files = sorted(place.glob("*.json")) if place.is_dir() else [place]
    numbers = [number for file in files for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", file.read_text())]
    return np.unique(np.outer(np.array(numbers, dtype=float), SCALES))


def is_shown(number, known):
    """Whether a decimal number, as README writes it, is a known one rounded to its last digit."""
    mantissa, _, exponent = number.replace(",", "").partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return np.abs(known - float(number.replace(",", ""))).min() <= 0.5001 * unit


@pytest.mark.parametrize("name", SECTIONS)
def test_the_numbers_of_a_row_are_in_the_results_files(name):
    places = [numbers_in(place) for pattern in SECTIONS[name] for place in sorted(RESULTS.glob(pattern))]
    rows = [line for line in section_of(name).splitlines() if line.startswith("| ")]
    shown = [re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?:e[+-]\d+)?(?![\w.])", row) for row in rows]
    assert any(shown)
    for row, numbers in zip(rows, shown, strict=True):
        assert any(all(is_shown(number, known) for number in numbers) for known in places), row


def test_quickstart_output_is_that_of_the_results_file():
    results = json.loads((RESULTS / "quickstart" / "results.json").read_text())
    section = section_of("quickstart-output")
    assert report_text(results, "outputs/quickstart").strip() in section
    assert results["report"].strip() in section


def test_the_studys_report_is_that_of_its_records(tmp_path):
    results = RESULTS / "study" / "laptop"
    (tmp_path / "runs").symlink_to(results / "runs")
    write_report(StudyArguments(size="laptop", results_dir=str(tmp_path)))
    for name in ("REPORT.md", "rows.json"):
        assert (tmp_path / name).read_text() == (results / name).read_text()
