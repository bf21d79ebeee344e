"""The Space of tlm_hf: see a committee of one-layer encoders think. `python app.py` runs it; README.md has the rest."""

import atexit
import functools
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).absolute().parent))

import demo_views as views
import gradio as gr
import torch
from demo_data import Demo, Task, build_committee, findings_table, load_demo, measure_overlap
from demo_models import DemoError, classify, fill_masks
from transformers.utils import logging as transformers_logging

logger = logging.getLogger("tlm-demo")
CONCURRENT = 2
QUEUE = 256
WAITING = '<div class="tlm"><p>Answers appear here.</p></div>'
NOTHING = (WAITING, "", "", "")
"""The tab Classify before an answer."""
FINDINGS = {
    "gap": (
        "a. Pre-trained against scratch",
        "Accuracy of the same encoder, fine-tuned from its pre-trained weights and from scratch.",
        ("gap.png",),
    ),
    "corpus_size": (
        "b. More pre-training text",
        "The gap between the two against the number of pre-training texts.",
        ("corpus_size.png",),
    ),
    "overlap": (
        "c. Token overlap",
        "The gap against the divergence of the pre-training text from the task's (smaller is more overlap).",
        ("overlap.png",),
    ),
    "committee": (
        "d. Committees",
        "Accuracy of committees against the number of members and against the time for one text.",
        ("committee.png", "latency.png"),
    ),
}
"""By finding its title, what the plots show, and their files."""
MASKED_EXAMPLES = (
    "The first [MASK] of the list is removed.",
    "Plot a [MASK] with matplotlib.",
    "He was born in the [MASK] of Paris.",
)


def refusing(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Show what a visitor did that cannot be answered as a message on the page."""

    @functools.wraps(answer)
    def wrapped(*inputs: Any) -> Any:
        try:
            return answer(*inputs)
        except DemoError as error:
            raise gr.Error(str(error), duration=8, print_exception=False) from error

    return wrapped


def choose(tasks: dict[str, Task], name: str) -> Task:
    """The task of this name."""
    if name not in tasks:
        raise DemoError(f"There is no task {name!r}: choose one of {', '.join(tasks)}.")
    return tasks[name]


def classify_tab(demo: Demo) -> None:
    """Text in; verdict, members' answers, attention and latency out."""
    tasks = {task.name: task for task in demo.tasks.values() if task.committee is not None}
    if not tasks:
        gr.Markdown("No committee could be loaded, so nothing can be classified here.")
        return
    with gr.Row():
        with gr.Column(scale=2):
            text = gr.Textbox(label="Text to classify", lines=4, max_lines=12, placeholder="Write a sentence")
            titles = [(each.title, name) for name, each in tasks.items()]
            task = gr.Dropdown(titles, value=next(iter(tasks)), label="Task")
            button = gr.Button("Classify", variant="primary")
            examples = [[words, name] for name, one in tasks.items() for words in one.examples]
            if examples:
                gr.Examples(examples, inputs=[text, task], label="Examples", examples_per_page=len(examples))
        with gr.Column(scale=3):
            verdict = gr.HTML(WAITING, label="Verdict", elem_id="verdict")
            gr.Markdown("### Votes of the members")
            votes = gr.HTML("", label="Votes", elem_id="votes")
            gr.Markdown("### Latency")
            speed = gr.HTML("", label="Latency", elem_id="latency")
            gr.Markdown("### Attention of [CLS] in the one layer\nWhere it looks does not explain the answer.")
            attention = gr.HTML("", label="Attention", elem_id="attention")

    @refusing
    def answer(text: str, task: str) -> tuple[str, str, str, str]:
        """Classify a text.

        Args:
            text: what is classified.
            task: name of the task.
        """
        chosen = choose(tasks, task)
        found = classify(text, chosen.committee, chosen.deep)
        return views.verdict(found), views.heat_map(found), views.latency(found), views.attention(found)

    shown = [verdict, votes, speed, attention]
    words = "Classify a text: the committee's verdict, its members' votes, latency and attention as HTML."
    asked = {"api_name": "classify", "api_description": words, "concurrency_limit": CONCURRENT}
    event = gr.on([button.click, text.submit], answer, [text, task], shown, **asked)
    event.failure(lambda: NOTHING, None, shown, api_visibility="private")
    task.change(lambda: NOTHING, None, shown, api_visibility="private")


def masks_tab(demo: Demo) -> None:
    """Text with [MASK] in; likely tokens of every encoder out."""
    if not demo.fillers:
        gr.Markdown("No encoder could be loaded, so no mask can be filled here.")
        return
    text = gr.Textbox(label="Text with [MASK]", lines=2, value="The [MASK] crosses the river by the old [MASK].")
    button = gr.Button("Fill the masks", variant="primary")
    gr.Examples([[example] for example in MASKED_EXAMPLES], inputs=[text])
    shown = gr.HTML(WAITING, label="Likely tokens", elem_id="masks")

    @refusing
    def fill(text: str) -> str:
        """Fill every [MASK] of a text by each encoder.

        Args:
            text: with one to ten [MASK].
        """
        found = [(filler.name, *fill_masks(text, filler)) for filler in demo.fillers.values()]
        notes = list(dict.fromkeys(note for _, _, note in found if note))
        tables = [views.masks(name, tokens) for name, tokens, _ in found]
        return f'<div class="tlm">{views.notes(notes)}</div>{"".join(tables)}'

    words = "The five likeliest tokens of every [MASK] by each encoder, as HTML."
    asked = {"api_name": "fill_mask", "api_description": words, "concurrency_limit": CONCURRENT}
    gr.on([button.click, text.submit], fill, [text], [shown], **asked)


def findings_tab(demo: Demo) -> None:
    """The study's findings as its plots and a table."""
    study, folder = demo.study, demo.plots
    if study is None or folder is None or not study["rows"]:
        gr.Markdown("There is no study here: `tlm study run --size laptop` and `tlm study report` make one.")
        return
    # The mean of the tasks, of which there are differences alone, is no task.
    tasks = list(dict.fromkeys(row["task"] for row in study["rows"] if row["measure"] != "difference"))
    with gr.Row():
        finding = gr.Dropdown([(one[0], name) for name, one in FINDINGS.items()], value="gap", label="Finding")
        task = gr.Dropdown(tasks, value=tasks[0], label="Task of the table")
    tables = Path(tempfile.mkdtemp(prefix="tlm-demo-"))
    atexit.register(shutil.rmtree, tables, ignore_errors=True)

    @refusing
    def show(finding: str, task: str) -> tuple[Any, ...]:
        """One finding of the study on one task.

        Args:
            finding: gap, corpus_size, overlap or committee.
            task: a task of the study.
        """
        if finding not in FINDINGS or task not in tasks:
            raise DemoError(f"There is no finding {finding!r} on {task!r}: choose from {', '.join(FINDINGS)}.")
        title, words, names = FINDINGS[finding]
        files = [str(folder / name) for name in names if (folder / name).is_file()]
        numbers = findings_table(study, finding, task)
        file = tables / f"{finding}-{task}.csv"  # the same file for every visitor
        if not file.is_file():
            numbers.to_csv(file, index=False)
        return [(name, title) for name in files], words, numbers, str(file)

    pictures, words, numbers, file = show("gap", tasks[0])
    plots = gr.Gallery(pictures, label="Plots", columns=1, object_fit="contain", height=480, elem_id="plots")
    says = gr.Markdown(words, label="Explanation", elem_id="explanation")
    data = gr.Dataframe(numbers, label="The numbers (percent; 95% intervals)", interactive=False, max_height=320)
    download = gr.DownloadButton("Download the table (CSV)", value=file)
    asked = {"api_name": "findings", "api_description": "Plots and table of one finding of the study on one task."}
    gr.on([finding.change, task.change], show, [finding, task], [plots, says, data, download], **asked)


def overlap_tab(demo: Demo) -> None:
    """A text in; its token overlap with the pre-training text out."""
    if demo.counts is None or not demo.fillers:
        gr.Markdown("The token counts of the pre-training text are not here, so no overlap can be measured.")
        return
    gr.Markdown(f"Compared with {demo.corpus['texts']:,} texts: {demo.corpus['name']}.")
    text = gr.Textbox(label="Text to compare", lines=4, max_lines=12, placeholder="Paste a text")
    button = gr.Button("Measure the overlap", variant="primary")
    shown = gr.HTML(WAITING, label="Overlap", elem_id="overlap")

    @refusing
    def measure(text: str) -> str:
        """Token overlap of a text with the pre-training corpus.

        Args:
            text: what is compared.
        """
        return views.overlap(*measure_overlap(text, demo))

    words = "Share of a text's tokens that are in the pre-training text, and the divergence, as HTML."
    asked = {"api_name": "overlap", "api_description": words, "concurrency_limit": CONCURRENT}
    gr.on([button.click], measure, [text], [shown], **asked)


def committee_tab(demo: Demo) -> None:
    """Members ticked in; accuracy, calibration and latency of their committee out."""
    tasks = {task.name: task for task in demo.tasks.values() if task.scores}
    if not tasks:
        gr.Markdown("The scores of committees are not here, so none can be built.")
        return
    first = next(iter(tasks.values()))
    titles = [(task.title, name) for name, task in tasks.items()]
    task = gr.Dropdown(titles, value=first.name, label="Task of the members")
    names = list(dict.fromkeys(name for each in tasks.values() for name in each.members))
    members = gr.CheckboxGroup(names, value=first.members, label="Members")
    shown = gr.HTML(WAITING, label="Committee", elem_id="committee")

    @refusing
    def build(task: str, members: list[str]) -> str:
        """Accuracy, calibration and latency of a committee of some members.

        Args:
            task: name of the task.
            members: names of the members.
        """
        chosen = choose(tasks, task)
        members = list(dict.fromkeys(members or []))
        unknown = [name for name in members if name not in chosen.members]
        if unknown:
            raise DemoError(f"There is no member {unknown[0]!r}: choose among {', '.join(chosen.members)}.")
        places = [chosen.members.index(name) for name in members]
        return views.committee(build_committee(chosen, places), _milliseconds(chosen, places))

    def change_task(name: str) -> Any:
        return gr.CheckboxGroup(choices=tasks[name].members, value=tasks[name].members)

    # Members of two tasks may have the same names, so that their box does not change: show the other task's anyway.
    asked = {"inputs": [task, members], "outputs": [shown]}
    event = task.change(change_task, [task], [members], api_visibility="private")
    event.then(build, **asked, api_visibility="private")
    words = "Accuracy, calibration and latency of a committee of chosen members, as HTML."
    described = {"api_name": "build_committee", "api_description": words, "concurrency_limit": CONCURRENT}
    gr.on([members.change], build, **asked, **described)
    gr.Button("Show this committee", variant="primary").click(build, **asked, api_visibility="private")


def _milliseconds(task: Task, places: list[int]) -> dict[str, float]:
    """Latency of the committee of these members and of the deep encoder, where the models are here."""
    side = task.committee
    if side is None or not task.examples:
        return {}
    if getattr(side.model.config, "num_members", 1) != len(task.members):  # another committee was named
        return {}
    if len(places) < len(task.members):
        side = type(side)(side.model.subset(places).eval(), side.tokenizer, side.labels)
    found = classify(task.examples[0], side, task.deep).milliseconds
    names = {"committee": f"committee of {len(places)}", "deep": "the deep encoder"}
    return {names[name]: value for name, value in found.items()}


TABS = {
    "Classify": classify_tab,
    "Fill the mask": masks_tab,
    "Findings": findings_tab,
    "Overlap": overlap_tab,
    "Build a committee": committee_tab,
}


def build_app(demo: Demo) -> gr.Blocks:
    """The page."""
    # What visitors upload, and copies of tables, are deleted after an hour.
    with gr.Blocks(title="Tiny language models", fill_width=False, delete_cache=(3600, 3600)) as app:
        gr.Markdown(
            "# Tiny language models: see a committee think\n"
            "Several small encoders answer together, where a task has one beside a deeper encoder."
        )
        for trouble in demo.trouble:
            gr.Markdown(f"⚠️ {trouble}", elem_classes="trouble")
        for title, tab in TABS.items():
            with gr.Tab(title):
                tab(demo)
    return app


def main() -> None:
    """Load and serve."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // CONCURRENT))  # for each text that is answered at once
    demo = load_demo()
    for trouble in demo.trouble:
        logger.warning("%s", trouble)
    host = "127.0.0.1" if "SPACE_ID" not in os.environ else "0.0.0.0"
    build_app(demo).queue(max_size=QUEUE).launch(
        theme=gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=views.CSS,
        show_error=True,
        server_name=os.environ.get("GRADIO_SERVER_NAME", host),
        allowed_paths=[] if demo.plots is None else [str(demo.plots)],
    )


if __name__ == "__main__":
    main()
