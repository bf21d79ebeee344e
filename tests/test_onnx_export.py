"""ONNX exports of our models by torch, run by onnxruntime: torch's logits on every batch and length.

Oracle: stock BERT in torch on the same weights (with convolution, and for a committee, our models by the plain path).
"""

import pytest
import torch
from conftest import TINY, randomise

from tlm_hf import CommitteeForSequenceClassification, TLMConfig, TLMForSequenceClassification

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SHAPES = [(2, 8), (1, 1), (1, 2), (5, 3), (3, 16)]
"""Of the batches; the first one is the example of the export."""
CONVOLUTION = {"conv_channels": 3, "conv_kernel_sizes": [[4, 4], [3, 3]]}


def mixed_committee():
    """Members without a convolution and with both kinds of it; and the same committee without fast paths."""
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
    committee = CommitteeForSequenceClassification.from_members(members, temperature=1.3)
    plain = CommitteeForSequenceClassification(committee.config)
    plain.load_state_dict(committee.state_dict())
    for member in plain.members:
        member.config.use_fast_path = False
    return committee, plain.eval()


@pytest.mark.parametrize("kind", ["classifier", "masked_lm", "committee"])
def test_onnxruntime_gives_the_logits_of_torch(build_pair, tmp_path, kind):
    """A classifier keeps its fast path: its feed-forward block is computed at [CLS] alone and has no length."""
    model, plain = mixed_committee() if kind == "committee" else build_pair(kind, num_labels=3)
    generator, batches = torch.Generator().manual_seed(4), []
    for batch, length in SHAPES:
        lengths = torch.randint(1, length + 1, (batch,), generator=generator)
        lengths[0] = length
        # Random tokens under the padding too: it is the mask that must hide them.
        ids = torch.randint(1, TINY["vocab_size"], (batch, length), generator=generator)
        batches.append({"input_ids": ids, "attention_mask": (torch.arange(length) < lengths[:, None]).long()})
    file = str(tmp_path / "model.onnx")
    torch.onnx.export(
        model, (), file, kwargs=batches[0], dynamo=True, external_data=False, verbose=False,
        input_names=list(batches[0]), output_names=["logits"],
        dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in batches[0]},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in batches:
        with torch.no_grad():
            expected = plain(**batch).logits
        found = torch.tensor(session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0])
        is_shown = batch["attention_mask"].bool() if kind == "masked_lm" else slice(None)  # padding has no logits
        torch.testing.assert_close(found[is_shown], expected[is_shown], atol=1e-5, rtol=1e-5)
    if kind != "committee":
        graph = onnx.shape_inference.infer_shapes(onnx.load(file)).graph
        shapes = [list(value.type.tensor_type.shape.dim) for value in graph.value_info]
        inner = [shape for shape in shapes if shape and shape[-1].dim_value == TINY["intermediate_size"]]
        assert inner
        assert any("sequence" in size.dim_param for shape in inner for size in shape) is (kind == "masked_lm")
