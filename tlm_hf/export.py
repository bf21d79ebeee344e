"""A classifier or committee as an ONNX file, where transformers.js and Optimum look, or as tables (`freeze`)."""

import contextlib
import hashlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from . import runtime
from .errors import UserError, check_installed
from .loading import COMMITTEES, load_classifier, load_classifier_tokenizer, read_config, weights_hash
from .models.combination_committee import CommitteeOutput
from .models.configuration_frozen import TABLE_DTYPES, FrozenCommitteeConfig
from .models.modeling_committee import CommitteeForSequenceClassification
from .models.modeling_frozen import FrozenCommitteeForSequenceClassification, check_freezable
from .option_fields import option
from .runs.atomic_files import Json
from .runs.output_folder import Run
from .runs.provenance import portable_path

FLOAT_FILE, INT8_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # largest difference to torch's float32 logits that an export may show; measured ones are about 1e-6
OF_LOADING = ("_name_or_path", "transformers_version", "dtype")  # fields of a configuration that change no answer
RUNTIME_FILES = ("tlm_runtime.py", "handler.py")
SAMPLE = ["A short text.", "Another one, which is a little longer than the first, so that one of them is filled up."]
LONG = f"{SAMPLE[1]} " * 20  # longer than members read, where a table of words reads more


@dataclass
class _Arguments:
    model: str = option("", "Folder or Hub name of a classifier or committee.")
    output_dir: str = option("", "Output folder.")

    def check(self) -> None:
        """Raise UserError where one is missing."""
        if not self.model or not self.output_dir:
            raise UserError("Give --model (a classifier or committee) and --output-dir.")


@dataclass
class ExportArguments(_Arguments):
    """Options of `tlm export`."""

    int8: bool = option(False, f"Also write {INT8_FILE}, its products quantized to int8.")


def export(arguments: ExportArguments) -> Json:
    """Write a classifier or committee with its tokenizer as ONNX, and compare its logits with torch's float32 ones.

    Returns `files` (bytes) and the `max_abs_diff` of each. Raises UserError for bad input or logits that differ.
    """
    arguments.check()
    check_installed(*NEEDED)
    model = load_classifier(arguments.model)
    if getattr(model.config, "table_dtype", "float32") == "int8":
        raise UserError(f"The tables of {arguments.model!r} are int8: export the float32 ones, with --int8.")
    if not isinstance(model, FrozenCommitteeForSequenceClassification):
        model = model.float()
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    run = Run(arguments.output_dir, "export", {**_identity(arguments.model, model), "int8": arguments.int8})
    if run.results is not None:
        return run.results
    results: Json = {"files": {}, "max_abs_diff": {}}

    def save(folder: Path) -> None:
        (folder / FLOAT_FILE).parent.mkdir()
        export_onnx(model, folder / FLOAT_FILE)
        if arguments.int8:
            quantize(folder / FLOAT_FILE, folder / INT8_FILE)
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name in (FLOAT_FILE, INT8_FILE)[: 1 + arguments.int8]:
            results["files"][name] = (folder / name).stat().st_size
            results["max_abs_diff"][name] = compare(folder / name, model, tokenizer)
        if (difference := results["max_abs_diff"][FLOAT_FILE]) > TOLERANCE:
            words = f"The exported logits differ from torch's by {difference:g}: this torch.onnx exports it wrongly"
            raise UserError(f"{words}, so install the version of requirements.lock.")

    return run.finish(save, results)


def _identity(source: str, model: PreTrainedModel) -> Json:
    """Hashes of what the answers depend on: weights, and the configuration with class names and temperature."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in OF_LOADING}
    text = json.dumps(config, sort_keys=True, default=str)
    return {"weights": weights_hash(source), "config_sha256": hashlib.sha256(text.encode()).hexdigest()}


@dataclass
class FreezeArguments(_Arguments):
    """Options of `tlm freeze`, whose model has one-layer members."""

    table_dtype: str = option("float32", "Precision of the tables.", choices=list(TABLE_DTYPES))
    token_types: bool = option(False, "Tables of token type 1 too, for pairs of texts.")


def freeze(arguments: FreezeArguments) -> Json:
    """Write a committee as tables, with a runtime that needs neither torch nor this package.

    Returns `tables`, see `measure_tables`. Raises UserError for bad input, or a member that cannot be frozen.
    """
    arguments.check()
    model = load_classifier(arguments.model).float()
    if isinstance(model, FrozenCommitteeForSequenceClassification):
        raise UserError(f"The model {arguments.model!r} is frozen already: name the committee that it was made from.")
    try:
        if not isinstance(model, CommitteeForSequenceClassification):
            model = CommitteeForSequenceClassification.from_members([model])
        check_freezable(list(model.members), 1 + arguments.token_types)
        _check_runtime(model)
    except ValueError as error:
        raise UserError(str(error)) from error
    tokenizer = load_classifier_tokenizer(arguments.model, model)
    settings = {"table_dtype": arguments.table_dtype, "token_types": arguments.token_types}
    run = Run(arguments.output_dir, "freeze", settings | _identity(arguments.model, model))
    if run.results is not None:
        return run.results
    measured: dict[str, float] = {}

    def save(folder: Path) -> None:
        write_frozen(model, tokenizer, folder, arguments.table_dtype, arguments.token_types)
        measured.update(measure_tables(model, tokenizer, folder))

    facts = {"model": portable_path(arguments.model), "labels": list(model.config.id2label.values())}
    return run.finish(save, {"output_dir": arguments.output_dir, **facts, "tables": measured})


def write_frozen(
    committee: CommitteeForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    table_dtype: str = "float32",
    token_types: bool = False,
) -> FrozenCommitteeForSequenceClassification:
    """Freeze a committee into a folder: tables, tokenizer and `RUNTIME_FILES`; ValueError where that is impossible."""
    _check_runtime(committee)
    frozen = committee.freeze(table_dtype, tokenizer.cls_token_id, token_types)
    tokenizer.save_pretrained(folder)
    frozen.config.max_tokens = int(tokenizer.model_max_length)
    frozen.config.tokenizer_sha256 = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    frozen.save_pretrained(folder, max_shard_size="1TB")
    write_runtime(folder)
    return frozen


def _check_runtime(committee: CommitteeForSequenceClassification) -> None:
    """Raise ValueError for an activation that the runtime lacks; torch reads tables of any."""
    config: Any = committee.members[0].config
    if config.hidden_act not in runtime.ACTIVATIONS:
        known = ", ".join(runtime.ACTIVATIONS)
        remedy = f"tables are read with {known} alone"
        raise ValueError(f"The members have the activation {config.hidden_act}, and {remedy}.")


@torch.inference_mode()
def measure_tables(committee: Any, tokenizer: Any, folder: Path) -> dict[str, float]:
    """Bytes of the tables in a folder, and the largest difference of the runtime's member logits on a sample."""
    answers, largest = runtime.load(folder), 0.0
    singles, pairs = [*SAMPLE, LONG], list(zip(SAMPLE, SAMPLE[::-1], strict=True))
    samples: list[tuple[list[Any], int]] = [(singles, answers.longest), (pairs, answers.positions)]
    for texts, limit in samples[: answers.config.get("type_vocab_size", 1)]:  # pairs if it takes them
        cut: Json = {"truncation": True, "max_length": limit, "return_token_type_ids": True}
        batch = tokenizer(texts, padding=True, return_tensors="pt", **cut)
        difference = answers.member_logits(*answers.encode(texts)[:2]) - committee(**batch).member_logits.numpy()
        largest = max(largest, float(abs(difference).max()))
    return {"bytes": (folder / "model.safetensors").stat().st_size, "max_abs_diff": largest}


def write_runtime(folder: Path) -> None:
    """Write `RUNTIME_FILES` into the folder of a frozen committee."""
    shutil.copyfile(runtime.__file__, folder / RUNTIME_FILES[0])
    (folder / RUNTIME_FILES[1]).write_text("from tlm_runtime import EndpointHandler  # noqa: F401\n", encoding="utf-8")


def takes_pairs(model: "PreTrainedModel | OnnxClassifier") -> bool:
    """Whether the model knows token type 1."""
    return model.config.model_type != FrozenCommitteeConfig.model_type or model.config.type_vocab_size > 1


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter, which prints its steps and warns of packages that are not used here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        try:
            yield
        finally:
            logging.disable(before)


def export_onnx(model: PreTrainedModel, path: Path) -> Path:
    """Write a float32 model with int64 inputs (batch, sequence), both sizes free; no row of the mask may be all 0."""
    outputs = ["logits", "member_logits"] if model.config.model_type in COMMITTEES else ["logits"]
    example = {name: torch.ones((2, 8), dtype=torch.long) for name in (INPUTS if takes_pairs(model) else INPUTS[:2])}
    options: Json = {"dynamo": True, "external_data": False, "verbose": False, "output_names": outputs}
    options |= {"input_names": list(example), "dynamic_shapes": {name: {0: "batch", 1: "sequence"} for name in example}}
    with quiet(), torch.no_grad():
        torch.onnx.export(model.eval(), (), path, kwargs=example, **options)
    return path


def quantize(source: Path, target: Path) -> Path:
    """Write a copy whose products with weights are int8; embeddings stay."""
    import onnx
    from onnxruntime.quantization import QuantType, matmul_nbits_quantizer, quantize_dynamic

    model = onnx.load(source)
    with quiet():
        if _split_members(model.graph):  # onnxruntime has a kernel for one row a text that reads int8 as it is
            how = matmul_nbits_quantizer.DefaultWeightOnlyQuantConfig(accuracy_level=4, is_symmetric=True, bits=8)
            quantizer = matmul_nbits_quantizer.MatMulNBitsQuantizer(model, algo_config=how)
            quantizer.process()
            onnx.save(quantizer.model.model, target)
        else:
            quantize_dynamic(model, target, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
    return target


def _split_members(graph: Any) -> bool:
    """Replace each product with weights (members, inputs, outputs) by one a member; whether there was any."""
    from onnx import helper, numpy_helper

    weights = {each.name: each for each in graph.initializer if len(each.dims) == 3}
    nodes = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in weights:
            nodes.append(node)
            continue
        weight, name = weights[node.input[1]], node.output[0]
        parts = [numpy_helper.from_array(part, f"{name}_{k}") for k, part in enumerate(numpy_helper.to_array(weight))]
        graph.initializer.remove(weight)
        graph.initializer.extend(parts)
        rows, products = ([f"{part.name}_{kind}" for part in parts] for kind in ("rows", "product"))
        nodes.append(helper.make_node("Split", [node.input[0]], rows, axis=0, num_outputs=len(parts)))
        for row, part, product in zip(rows, parts, products, strict=True):
            nodes.append(helper.make_node("MatMul", [row, part.name], [product], name=product))
        nodes.append(helper.make_node("Concat", products, [name], axis=0))
    count = len(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)
    return len(nodes) > count


class OnnxClassifier(torch.nn.Module):
    """An exported file as a model, on so many CPU threads (0: onnxruntime's choice), which sleep when they are idle."""

    device = torch.device("cpu")

    def __init__(self, path: Path, config: PreTrainedConfig, num_threads: int = 0) -> None:
        import onnxruntime

        super().__init__()
        self.config = config
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.takes_types = len(self.session.get_inputs()) == len(INPUTS)
        self.names = [output.name for output in self.session.get_outputs()]

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> CommitteeOutput:
        """int64 (batch, sequence) each, to logits float32 (batch, num_labels) and, of a committee, those of members."""
        given = {"input_ids": input_ids.numpy(), "attention_mask": attention_mask.numpy()}
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        if self.takes_types:
            given["token_type_ids"] = types.numpy()
        elif bool(types.any()):
            remedy = "freeze it with token types, and export it again"
            raise UserError(f"An exported frozen committee takes single texts: {remedy}.")
        values = map(torch.from_numpy, self.session.run(self.names, given))
        return CommitteeOutput(**dict(zip(self.names, values, strict=True)))


def load_for_inference(source: str) -> PreTrainedModel | OnnxClassifier:
    """A classifier or committee by folder or Hub name, or what `export` wrote, run by onnxruntime."""
    folder = Path(source).expanduser()
    exported = [folder / name for name in (FLOAT_FILE, INT8_FILE) if (folder / name).is_file()]
    if not exported or any(folder.glob("*.safetensors")):
        return load_classifier(source)
    check_installed("onnxruntime")
    read_config(source, needs_weights=False)  # says what is wrong with it
    return OnnxClassifier(exported[0], AutoConfig.from_pretrained(folder))


def freeze_if_possible(
    model: PreTrainedModel | OnnxClassifier, tokenizer: PreTrainedTokenizerBase, token_types: bool = False
) -> PreTrainedModel | OnnxClassifier:
    """A committee as float32 tables (for pairs: `token_types`), where members and tokenizer allow; else the model."""
    if not isinstance(model, CommitteeForSequenceClassification) or model.dtype != torch.float32:
        return model
    if tokenizer.padding_side != "right" or tokenizer("")["input_ids"][:1] != [tokenizer.cls_token_id]:
        return model
    try:
        return model.freeze(cls_token_id=tokenizer.cls_token_id, token_types=token_types)
    except ValueError:  # a member has no tables
        return model


@torch.inference_mode()
def compare(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> float:
    """Largest absolute difference of the file's logits from torch's on texts, and pairs, of different length."""
    exported, largest = OnnxClassifier(path, model.config), 0.0
    for texts in [([*SAMPLE, LONG],), (SAMPLE, SAMPLE[::-1])][: 1 + takes_pairs(model)]:
        batch = tokenizer(*texts, padding=True, truncation=True, return_tensors="pt")
        batch = {name: batch[name] for name in INPUTS if name in batch}
        largest = max(largest, float((exported(**batch).logits - model(**batch).logits).abs().max()))
    return largest
