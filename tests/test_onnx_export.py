"""ONNX exports of our folders as remote code, run by onnxruntime: torch's logits on every batch and length.

Oracle: stock BERT in torch on the same weights (with convolution, and for a committee, our models by the plain path).
"""

import json

import pytest
import torch
from conftest import TINY, randomise

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

SHAPES = [(1, 1), (1, 2), (2, 8), (5, 3), (3, 16)]
EXAMPLE = (2, 8)
CONVOLUTION = {"conv_channels": 3, "conv_kernel_sizes": [[4, 4], [3, 3]]}
EXPORTS = {
    "classifier": ("AutoModelForSequenceClassification", "TLMForSequenceClassification"),
    "masked_lm": ("AutoModelForMaskedLM", "TLMForMaskedLM"),
    "committee": ("AutoModelForSequenceClassification", "CommitteeForSequenceClassification"),
}

EXPORT = """
import json, logging, warnings
import onnx, onnxruntime, torch, transformers

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
root, exports, example = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
batches = torch.load(root + "/batches.pt")
results = {}
for name, (auto, _) in exports.items():
    try:
        model = getattr(transformers, auto).from_pretrained(root + "/" + name, trust_remote_code=True)
        inputs = batches[example]
        program = torch.onnx.export(
            model, (), "model.onnx", kwargs=inputs, dynamo=True, external_data=False, verbose=False,
            input_names=list(inputs), output_names=["logits"],
            dynamic_shapes={key: {0: "batch", 1: "sequence"} for key in inputs},
        )
        session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
        run = lambda batch: session.run(["logits"], {key: value.numpy() for key, value in batch.items()})[0].tolist()
        graph = onnx.shape_inference.infer_shapes(onnx.load("model.onnx")).graph
        shapes = [[size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
                  for value in graph.value_info]
        logits = {shape: run(batch) for shape, batch in batches.items()}
        results[name] = {"class": type(model).__name__, "logits": logits, "shapes": shapes,
                         "inputs": [value.name for value in session.get_inputs()]}
    except Exception as error:
        while error.__cause__ is not None:
            error = error.__cause__
        results[name] = {"error": f"{type(error).__name__}: {error}"}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def models(build_pair, tmp_path_factory):
    """Folder of saved models, by folder name what each must compute, and batches by "batch x length"."""
    root = tmp_path_factory.mktemp("onnx")
    expected = {}
    for kind, fields in (("classifier", {"num_labels": 3}), ("masked_lm", {})):
        ours, expected[kind] = build_pair(kind, **fields)
        ours.save_pretrained(root / kind)
    members = [
        TLMForSequenceClassification(TLMConfig(**TINY, **fields, num_labels=3)).eval()
        for fields in (CONVOLUTION, {**CONVOLUTION, "conv_sees_padding": True}, {})
    ]
    for seed, member in enumerate(members):
        randomise(member, seed=20 + seed)
        for module in member.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as after training
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    expected["committee"] = CommitteeForSequenceClassification.from_members(members, temperature=1.3)
    expected["committee"].save_pretrained(root / "committee")
    for member in members:
        member.config.use_fast_path = False
    generator = torch.Generator().manual_seed(4)
    batches = {}
    for batch, length in SHAPES:
        lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        lengths[0] = length
        # Random tokens under the padding too: it is the mask that must hide them.
        ids = torch.randint(1, TINY["vocab_size"], (batch, length), generator=generator)
        mask = (torch.arange(length) < lengths[:, None]).long()
        batches[f"{batch}x{length}"] = {"input_ids": ids, "attention_mask": mask}
    torch.save(batches, root / "batches.pt")
    return root, expected, batches


@pytest.fixture(scope="module")
def exported(models, run_without_package):
    return run_without_package(EXPORT, str(models[0]), json.dumps(EXPORTS), "x".join(map(str, EXAMPLE)))


@pytest.mark.parametrize("name", EXPORTS)
def test_onnxruntime_gives_the_logits_of_torch(models, exported, name):
    _, expected, batches = models
    result = exported[name]
    assert "error" not in result, result["error"]
    assert result["class"] == EXPORTS[name][1]
    assert result["inputs"] == ["input_ids", "attention_mask"]
    model = expected[name]
    for shape, batch in batches.items():
        with torch.no_grad():
            logits = model(**batch).logits
        found = torch.tensor(result["logits"][shape])
        keep = batch["attention_mask"].bool() if logits.dim() == 3 else slice(None)  # padding has no promised logits
        torch.testing.assert_close(found[keep], logits[keep], atol=1e-5, rtol=1e-5)


def test_an_exported_classifier_keeps_the_fast_path(exported):
    """The feed-forward block of a one-layer classifier is computed at [CLS] alone: no such tensor has a length."""
    for name, whole in (("masked_lm", True), ("classifier", False)):
        shapes = [shape for shape in exported[name]["shapes"] if shape and shape[-1] == TINY["intermediate_size"]]
        assert shapes
        assert any("sequence" in str(shape) for shape in shapes) is whole, shapes
