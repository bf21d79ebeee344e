"""The Space of tlm_hf: a committee of one-layer encoders votes while one types. `python app.py` runs it (README.md)."""

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

# The page's products of matrices are small: several threads for one of them only wait for each other.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).absolute().parent))

import demo_views as views
import gradio as gr
import torch
from demo_data import RACE_TEXTS, Demo, Json, Task, human, load_demo, measure_overlap
from demo_models import DemoError, Entrant, classify, processor, race, untrained_bert, without_paths
from transformers.utils import logging as transformers_logging

try:
    import tlm_hf
except ModuleNotFoundError:  # without it the page cannot train
    tlm_hf = None

HAS_MCP = importlib.util.find_spec("mcp") is not None
LIVE: Json = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last", "api_visibility": "private"}
"""Events of `change` that answer while one types (those of `input` would be a key late in gradio 6.31)."""
SLOW: Json = {"show_progress": "hidden", "concurrency_limit": 1, "api_visibility": "private"}
MOST_ROWS, FEW_ROWS = 500, 300  # rows of an uploaded table, and up to which there is time for all passes over them
MASK, MASKED = "Text with [MASK]", "The [MASK] of the matrix is returned."
HINT = "Change a word and watch the votes move."
PARTS = {  # title and introduction of each part of the page below the text box, in order
    "race": ("Race", f"{RACE_TEXTS} texts one by one: stock BERT and the committee in torch, its tables in numpy."),
    "build": ("Build a committee", "Tick members: each was pre-trained or fine-tuned with its own seed."),
    "train": (
        "Train your own",
        f"A CSV of at most {MOST_ROWS} rows and 2 MB with the columns <code>text</code> and <code>label</code>. "
        "It takes about a minute; files are deleted within two hours.",
    ),
    "masks": ("Fill the mask", "What do the encoders know? The last one has the same shape without pre-training."),
    "overlap": ("Overlap", "How much of a text did the encoders see in pre-training?"),
    "findings": ("Findings", "What a study on one laptop found, for and against."),
    "api": ("API", "Each part answers programs too, as JSON."),
}
PYTHON = """from gradio_client import Client

client = Client("{url}")
client.predict(text="{text}", task="{task}", api_name="/classify")
client.predict(text="The first [MASK] of the list.", api_name="/fill_mask")
client.predict(text="any text", api_name="/overlap")
client.predict(members=["member 1", "member 2"], task="{task}", api_name="/build_committee")"""
CURL = """id=$(curl -s {url}/gradio_api/call/classify -H "Content-Type: application/json" \\
  -d '{{"data": ["{text}", "{task}"]}}' | cut -d'"' -f4)
curl -N {url}/gradio_api/call/classify/$id"""
PROGRAMS = {"Python": PYTHON, "curl": CURL}
if HAS_MCP:
    PROGRAMS["Tools for agents (MCP)"] = '{{"mcpServers": {{"tiny-models": {{"url": "{url}/gradio_api/mcp/"}}}}}}'


def or_error(answer: Callable[..., Any], *, of_program: bool = False) -> Callable[..., Any]:
    """Show in place of the answer what a visitor can mend, and raise what a program can."""

    @wraps(answer)
    def wrapped(*inputs: Any) -> Any:
        try:
            return answer(*inputs)
        except DemoError as error:
            if of_program:
                raise gr.Error(str(error), print_exception=False) from error
            return views.error(error)

    return wrapped


def add_live(demo: Demo) -> gr.Radio:
    """A text box whose answer follows each key; returns the choice of the task."""
    first = demo.choose()

    @or_error
    def answer(text: str, task: str) -> str:
        return views.answer(classify(text, demo.choose(task).committee))

    def another(text: str, task: str) -> tuple[Any, str]:
        one = demo.choose(task)
        place = one.examples.index(text) + 1 if text in one.examples else 0
        text = one.examples[place % len(one.examples)]
        return gr.Textbox(text, label=one.title), answer(text, task)

    start = max(first.examples, key=lambda text: classify(text, first.committee).probabilities.max())
    with gr.Row():
        with gr.Column(min_width=300):
            choices = [(human(name), name) for name in demo.tasks]
            task = gr.Radio(choices, value=first.name, label="Task", visible=len(choices) > 1)
            text = gr.Textbox(start, label=first.title, info=HINT, lines=3, max_lines=10, elem_id="live")
            button = gr.Button("Another example", elem_classes="short")
        with gr.Column(min_width=300):
            shown = gr.HTML(answer(start, first.name), elem_id="answer")
    text.change(answer, [text, task], shown, **LIVE)
    gr.on([button.click, task.input], another, [text, task], [text, shown], **LIVE)
    return task


def add_race(demo: Demo, task: gr.Radio) -> None:
    """Stock BERT, the committee and its tables against each other."""

    def entrants(task: Task) -> list[Entrant]:
        deep, name = task.deep or untrained_bert(task.committee), f"committee of {len(task.members)}"
        found = [Entrant(f"{deep.model.config.num_hidden_layers}-layer BERT", deep.by_torch, is_deep=True)]
        found.append(Entrant(name, task.committee.by_torch))
        return found + [Entrant(f"{name}, frozen", task.committee.answer)] * (task.committee.frozen is not None)

    def run(name: str) -> Iterator[str]:
        one = demo.choose(name)
        for found in race(entrants(one), one.race_texts()):
            yield views.race(found, RACE_TEXTS, machine)

    machine = f"Measured on this server: {processor()}. Where a task has no trained BERT, its weights are random."
    button = gr.Button("Start the race", variant="primary", elem_classes="short")
    shown = gr.HTML(views.race(entrants(demo.choose()), RACE_TEXTS, machine), elem_id="bars")
    button.click(run, task, shown, **SLOW)


def add_build(demo: Demo, task: gr.Radio) -> None:
    """Members ticked in; accuracy, calibration and latency of their committee out."""

    @or_error
    def build(members: list[str], task: str) -> str:
        return views.committee(demo.build_committee(members, task), demo.choose(task).test_texts)

    def change_task(task: str) -> tuple[Any, str]:
        members = demo.choose(task).members
        return gr.CheckboxGroup(choices=members, value=members), build(members, task)

    first = demo.choose()
    members = gr.CheckboxGroup(first.members, value=first.members, label="Members")
    shown = gr.HTML(build(first.members, first.name), elem_id="committee")
    members.input(build, [members, task], shown, **LIVE)
    task.input(change_task, task, [members, shown], **LIVE)


def train_on(file: str, folder: str, encoders: list[str]) -> tuple[Any, str]:
    """Train on an uploaded table; its report, and a zip of the frozen committee. DemoError for a bad table."""
    from tlm_hf.data.table_files import read_table_file
    from tlm_hf.data.task_options import TextFormat

    try:
        table = read_table_file(Path(file), TextFormat()).table
        if not {"text", "label"} <= set(table.column_names) or len(table) > MOST_ROWS:
            raise DemoError(f"The table needs the columns text and label, and at most {MOST_ROWS} rows.")
        epochs = 8.0 if len(table) > FEW_ROWS else None
        _, report = tlm_hf.train_committee(file, output_dir=f"{folder}/out", encoder=encoders, num_train_epochs=epochs)
    except tlm_hf.errors.UserError as error:
        raise DemoError(without_paths(error)) from error
    return report, shutil.make_archive(f"{folder}/frozen-committee", "zip", f"{folder}/out/frozen")


def add_training(demo: Demo) -> None:
    """A table in; a trained committee's scores, and its frozen folder to take away, out."""

    def train(file: str) -> Iterator[tuple[str, Any]]:
        start, encoders = time.monotonic(), [] if tlm_hf.pretrained() else [demo.encoders[0].source]
        yield views.box(views.say("Training three members …")), gr.skip()
        with tempfile.TemporaryDirectory(prefix="tlm-demo-") as folder:
            try:
                report, archive = train_on(file, folder, encoders)
                words = f"Trained in {time.monotonic() - start:.0f} seconds on {processor()}."
                shown = views.trained(report["scores"], report["recommendation"], words)
                yield shown, gr.DownloadButton(value=archive, visible=True)
            except DemoError as error:
                yield views.error(error), gr.DownloadButton(visible=False)

    button = gr.UploadButton("Choose a CSV and train", file_types=[".csv"], variant="primary", elem_classes="short")
    shown = gr.HTML("", elem_id="trained")
    download = gr.DownloadButton("Download the committee", visible=False, elem_classes="short")
    button.upload(train, button, [shown, download], **SLOW)


def add_text(name: str, label: str, start: str, find: Callable[[str], Any], view: Callable[[Any], str]) -> None:
    """A text box whose answer, below it, follows each key."""
    answer = or_error(lambda text: view(find(text)))
    text = gr.Textbox(start, label=label, lines=1, max_lines=8)
    shown = gr.HTML(answer(start), elem_id=f"{name}-answer")
    text.change(answer, text, shown, **LIVE)


def add_api(demo: Demo, text: str) -> None:
    """How programs ask, and the endpoints."""
    host = os.environ.get("SPACE_HOST")
    url = f"https://{host}" if host else "http://127.0.0.1:7860"
    with gr.Row():
        for label, example in PROGRAMS.items():
            words = example.format(url=url, task=next(iter(demo.tasks), ""), text=text)
            gr.Code(words, label=label, interactive=False, wrap_lines=True, show_line_numbers=False)
    for answer in (demo.classify, demo.fill_mask, demo.overlap, demo.build_committee):
        gr.api(or_error(answer, of_program=True), api_name=answer.__name__, concurrency_limit=4)


def build_app(demo: Demo) -> gr.Blocks:
    """The page: each part whose models or files are there."""
    needs = {"race": demo.tasks, "build": demo.tasks, "train": demo.encoders and tlm_hf, "masks": demo.encoders}
    needs |= {"overlap": demo.counts is not None, "findings": demo.study}
    parts = {name: words for name, words in PARTS.items() if needs.get(name, True)}
    members = max((len(task.members) for task in demo.tasks.values()), default=5)
    frozen = all(task.committee.frozen is not None for task in demo.tasks.values())
    # What visitors upload is deleted after an hour.
    with gr.Blocks(title="Tiny language models", fill_width=True, delete_cache=(3600, 3600)) as app:
        gr.HTML(views.hero(members, {name: title for name, (title, _) in parts.items()}, frozen=frozen))
        for trouble in demo.trouble:
            gr.HTML(views.error(trouble), elem_classes="trouble")
        task = add_live(demo) if demo.tasks else None
        label = f"Text to compare with {demo.corpus}"
        example = next((task.examples[0] for task in demo.tasks.values()), "A text.")
        add: dict[str, Callable[[], Any]] = {
            "race": lambda: add_race(demo, task),
            "build": lambda: add_build(demo, task),
            "train": lambda: add_training(demo),
            "masks": lambda: add_text("masks", MASK, MASKED, demo.fill_mask, views.masks),
            "overlap": lambda: add_text("overlap", label, example, partial(measure_overlap, demo=demo), views.overlap),
            "findings": lambda: gr.HTML(views.findings(demo.study), elem_id="plots"),
            "api": lambda: add_api(demo, example),
        }
        for name, words in parts.items():
            gr.HTML(views.section(name, *words))
            add[name]()
    return app


def main() -> None:
    """Load and serve."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    demo = load_demo()
    for trouble in demo.trouble:
        print(trouble, file=sys.stderr)
    host = "127.0.0.1" if "SPACE_ID" not in os.environ else "0.0.0.0"
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Base(primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", **fonts)
    dark_enough = {"body_text_color_subdued": "*neutral_500", "block_info_text_color": "*neutral_500"}
    build_app(demo).queue(max_size=256).launch(
        theme=theme.set(button_primary_background_fill="*primary_600", **dark_enough),
        css_paths=Path(__file__).with_name("style.css"),
        show_error=True,
        max_file_size="2mb",
        server_name=os.environ.get("GRADIO_SERVER_NAME", host),
        mcp_server=HAS_MCP,
    )


if __name__ == "__main__":
    main()
