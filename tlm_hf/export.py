"""A classifier or a whole committee as one ONNX file, for onnxruntime: float32, or int8 by dynamic quantization.

Batch and length of the file's inputs are free. Its outputs are `logits` and, for a committee, `member_logits`.
"""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .errors import UserError
from .loading import load_classifier, load_classifier_tokenizer
from .models.modeling_committee import CommitteeForSequenceClassification
from .runs.output_folder import Run

FLOAT_FILE, INT8_FILE = "model.onnx", "model_int8.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
ONE_FILE = 1_500_000_000
"""Bytes of weights up to which the .onnx file holds them; more go into a file beside it (protobuf ends at 2 GB)."""
TOLERANCE = 1e-3
"""Largest difference to torch's float32 logits that an export may show; the measured ones are about 1e-6."""
SAMPLE = ("A short text.", "Another one, which is a little longer than the first, so that one of them is filled up.")


@dataclass
class ExportArguments:
    """Options of `tlm export`."""

    model: str = field(default="", metadata={"help": "Folder or Hub name of a classifier or committee."})
    output_dir: str = field(default="", metadata={"help": "Output folder."})
    int8: bool = field(default=False, metadata={"help": f"Also write {INT8_FILE}, its products quantized to int8."})


def export(arguments: ExportArguments) -> dict[str, Any]:
    """Write a classifier or committee with its tokenizer as ONNX, and compare its logits with torch's.

    Returns:
        `files` with their sizes in bytes, and for each the largest absolute difference of its logits from torch's
        float32 on a sample of two texts, `max_abs_diff`.

    Raises:
        UserError: bad input, packages that are not installed, or a float32 export whose logits differ.
    """
    if not arguments.model or not arguments.output_dir:
        raise UserError("export needs --model (a classifier or committee) and --output-dir.")
    check_packages()
    model = load_classifier(arguments.model).float()
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    run = Run(arguments.output_dir, "export", {"model": arguments.model, "int8": arguments.int8})
    if run.results is not None:
        return run.results
    results: dict[str, Any] = {"files": {}, "max_abs_diff": {}}

    def save(folder: Path) -> None:
        export_onnx(model, folder / FLOAT_FILE)
        if arguments.int8:
            quantize(folder / FLOAT_FILE, folder / INT8_FILE)
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for file in sorted(folder.glob("*.onnx")):
            results["files"][file.name] = sum(part.stat().st_size for part in folder.glob(f"{file.name}*"))
            results["max_abs_diff"][file.name] = compare(file, model, tokenizer)
        if results["max_abs_diff"][FLOAT_FILE] > TOLERANCE:
            raise UserError(
                f"The exported logits differ from torch's by {results['max_abs_diff'][FLOAT_FILE]:g}: this version of "
                "torch.onnx cannot export the model rightly, so take the one of requirements.lock."
            )

    return run.finish(save, results)


def check_packages() -> None:
    """Raise UserError where a package that exporting needs is not installed."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    if lacking:
        raise UserError(f"ONNX export needs {', '.join(lacking)}: pip install 'tlm-hf[onnx]'.")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter prints its steps, and warns of packages that are not used here."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def export_onnx(model: PreTrainedModel, path: Path) -> Path:
    """Write the model in float32.

    Args:
        model: a classifier (ours or stock BERT's) or committee.
        path: the .onnx file; weights of more than 1.5 GB go into a file beside it.

    Returns:
        `path`. The inputs `input_ids` and `attention_mask` are int64 (batch, sequence), both sizes free; no row of the
        mask may be all 0.
    """
    outputs = ["logits", "member_logits"] if isinstance(model, CommitteeForSequenceClassification) else ["logits"]
    if any(weight.dtype != torch.float32 for weight in model.parameters()):
        model = copy.deepcopy(model).float()
    example = {name: torch.ones((2, 8), dtype=torch.long) for name in ("input_ids", "attention_mask")}
    size = sum(weight.nbytes for weight in model.parameters())
    with quiet(), torch.no_grad():
        torch.onnx.export(
            model.eval(),
            (),
            path,
            kwargs=example,
            dynamo=True,
            external_data=size > ONE_FILE,
            verbose=False,
            input_names=list(example),
            output_names=outputs,
            dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in example},
        )
    return path


def quantize(source: Path, target: Path) -> Path:
    """Write a copy whose matrix products with weights are int8 (onnxruntime's dynamic quantization); embeddings stay.

    Args:
        source: float32 file.
        target: file to write.

    Returns:
        `target`.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            source,
            target,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
            use_external_data_format=source.stat().st_size > ONE_FILE
            or source.with_name(f"{source.name}.data").exists(),
        )
    return target


class OnnxClassifier:
    """Runs an exported file.

    Args:
        path: the .onnx file.
        num_threads: CPU threads; None for onnxruntime's choice.
        spins: let its threads wait busily for the next call, as is onnxruntime's default: faster for calls that follow
            one another, but it takes the cores from whatever runs beside or between them.
    """

    def __init__(self, path: Path, num_threads: int | None = None, spins: bool = True) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        if not spins:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def __call__(self, input_ids: Any, attention_mask: Any) -> np.ndarray:
        """int64 (batch, sequence) each, tensors or arrays, to logits float32 (batch, num_labels)."""
        inputs = {"input_ids": np.asarray(input_ids), "attention_mask": np.asarray(attention_mask)}
        return self.session.run(["logits"], inputs)[0]


@torch.inference_mode()
def compare(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Largest absolute difference of the file's logits from torch's on two texts of different length."""
    batch = tokenizer(list(SAMPLE), padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
    expected = model(**batch).logits.numpy()
    return float(np.abs(OnnxClassifier(path)(**batch) - expected).max())
