"""Table, text and plot of the quickstart, against numbers worked out by hand and the picture as matplotlib reads it."""

from dataclasses import asdict

from matplotlib import pyplot as plt

from tlm_hf.study.quickstart import TableRow, draw_plot, report_text, table

ROWS = [
    TableRow("bert-1", 1234567, [0.50, 0.60, 0.70], [0.65, 0.75, 0.85], 1.234),
    TableRow("bert-6", 7654321, [0.55], [0.525], 9.876),
    TableRow("committee of 3 bert-1", 3703701, [0.66, 0.70], [0.80, 0.90], 2.5),
    TableRow("bert-1 of the package", 2345678, [], [0.8, 0.9], None),
    TableRow("TF-IDF + linear model", None, [0.72], [], None),
]
SUMMARY = {
    "smoke": False,
    "rows": [asdict(row) for row in ROWS],
    "is_busy": False,
    "corpus": {"texts": 20144, "held_out_texts": 1000},
    "scale": {"pretraining_steps": 300, "finetuning_epochs": 11.0},
    "task": {"labels": 9, "train": 1800, "validation": 360, "test": 540},
}


def cells(markdown: str) -> list[list[str]]:
    """Cells of a Markdown table without its rule."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not set(line) <= set("|-")]


def test_table():
    written = table(ROWS)
    assert cells(written) == [
        ["model", "parameters", "from scratch", "pre-trained", "gap", "latency"],
        ["bert-1", "1,234,567", "0.600 ± 0.100 (3 runs)", "0.750 ± 0.100 (3 runs)", "+0.150", "1.23 ms"],
        ["bert-6", "7,654,321", "0.550", "0.525", "-0.025", "9.88 ms"],
        ["committee of 3 bert-1", "3,703,701", "0.680 ± 0.028 (2 runs)", "0.850 ± 0.071 (2 runs)", "+0.170", "2.50 ms"],
        ["bert-1 of the package", "2,345,678", "", "0.850 ± 0.071 (2 runs)", "", ""],
        ["TF-IDF + linear model", "", "0.720", "", "", ""],
    ]
    assert len({len(line) for line in written.splitlines()}) == 1, "the columns are not aligned"
    assert len(written.splitlines()) == len(ROWS) + 2


def test_report_says_what_was_measured():
    text = report_text(SUMMARY, "outputs/here")
    assert table(ROWS) in text
    # By hand: 0.75 - 0.60 and 0.85 - 0.72.
    for shown in ("540", "1,800", "20,144", "0.850", "outputs/here/accuracy.png", "+15.0 points", "13.0 points"):
        assert shown in text, shown
    assert "unreliable" not in text
    assert "unreliable" in report_text({**SUMMARY, "is_busy": True}, "outputs/here")
    assert "points" not in report_text({**SUMMARY, "smoke": True}, "outputs/here")


def test_plot_is_a_picture(tmp_path):
    draw_plot(ROWS, tmp_path / "accuracy.png", smoke=True)
    picture = plt.imread(tmp_path / "accuracy.png")
    assert min(picture.shape[:2]) > 300
    pixels = picture[::3, ::3].reshape(-1, picture.shape[2])
    colours = {tuple((pixel[:3] * 255).round().astype(int)) for pixel in pixels}
    assert {(0x9A, 0xA5, 0xB1), (0x2F, 0x6D, 0xB5)} <= colours, "a bar of one of the arms is not there"
    assert not plt.get_fignums()
