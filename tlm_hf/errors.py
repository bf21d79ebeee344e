"""The one exception for bad input: commands turn it into one sentence on stderr and exit code 2."""

from typing import Any


class UserError(ValueError):
    """Bad input from the user: one sentence that names the culprit and the remedy.

    Library code raises it before any long work starts; the commands print it as ``error: ...`` and exit with code 2.
    """


def check_range(arguments: Any, lowest: float, highest: float, *names: str) -> None:
    """Raise UserError unless each named option lies in [lowest, highest]; None counts as not given.

    Args:
        arguments: a dataclass of options.
        lowest: smallest value that works.
        highest: largest value that works; infinity for no bound.
        names: fields of `arguments`.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is None or lowest <= value <= highest:
            continue
        wanted = f"at least {lowest}" if highest == float("inf") else f"a value from {lowest} to {highest}"
        raise UserError(f"--{name.replace('_', '-')} is {value}: give {wanted}.")


class Terminated(KeyboardInterrupt):
    """SIGTERM, after a training has saved a checkpoint: commands leave with exit code 143."""


# fmt: off
EXTRAS = {
    "train": ("accelerate", "datasets", "filelock", "matplotlib", "pandas", "peft", "psutil", "pyarrow",
              "scipy", "sklearn", "tqdm", "yaml"),
    "release": ("httpx2", "jinja2"),
    "sentence": ("sentence_transformers",),
    "demo": ("gradio",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "cluster": ("ray",),
}
# fmt: on
"""Which modules an extra of `pyproject.toml` brings; a module of several extras is named with the first."""


def explain_missing_module(error: ModuleNotFoundError) -> str | None:
    """The sentence that names the extra with a missing module; None for a module that no extra brings."""
    module = (error.name or "").split(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            command = f"pip install 'tlm-hf[{extra}]' (in a clone: pip install -e '.[{extra}]')"
            return f"The Python package {module} is not installed: run {command}."
    return None
