"""Plots show names as they are, and one that fails costs nothing else."""

import logging

from tlm_hf.runs.figure import new_figure


def test_dollar_signs_are_drawn_as_they_are(tmp_path, caplog):
    with new_figure(tmp_path / "a.png", title="a$b$", xlabel=r"$\ird") as axes:
        axes.plot([0, 1], [0, 1], label=r"$\ird")
        axes.set_xticks([0, 1], [r"$\ird", "a$b"])
        axes.legend()
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert not caplog.records


def test_a_plot_that_fails_is_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING), new_figure(tmp_path / "b.png") as axes:
        axes.plot([0, 1], [0, 1, 2])
    assert not (tmp_path / "b.png").exists()
    assert "b.png could not be drawn" in caplog.text
