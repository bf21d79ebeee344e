"""What new weights start from: neighbours that heads attend to, word rows from counts, and a word at [CLS]."""

import numpy as np
import pytest
import torch
from helpers_commands import results_of, succeed, write_corpus
from transformers import BertForMaskedLM, BertModel

from tlm_hf import TLMConfig, TLMForMaskedLM
from tlm_hf.data.masking import MaskingCollator
from tlm_hf.training.initialization import position_features, rotation, start_from_counts, start_with_neighbours


def build(hidden, heads, layers=1, **options):
    torch.manual_seed(0)
    fields = {"vocab_size": 50, "max_position_embeddings": 60, "intermediate_size": 32, "pad_token_id": 0}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    fields |= {"hidden_size": hidden, "num_attention_heads": heads, "num_hidden_layers": layers}
    return TLMForMaskedLM(TLMConfig(**fields, **dropout, **options))


@pytest.mark.parametrize("size", [2, 10, 64])
def test_positions_are_orthonormal_and_turned_by_offsets(size):
    features = position_features(size + 1, size).double()
    product = (features @ features.T).numpy()
    assert np.allclose(product[:size, :size], np.eye(size), atol=1e-5)
    assert np.isclose(product[0, size], -1, atol=1e-5)
    for offset in (-2, 1, 5):
        turned = position_features(size + 10, size) @ rotation(offset, size).T
        there = position_features(size + 20, size)
        for position in (3, 7):
            assert torch.allclose(turned[position], there[position + offset], atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads", "layers", "deviation"), [(256, 4, 1, 0.0625), (384, 6, 6, 0.02)])
def test_heads_start_by_attending_to_their_neighbours(tmp_path, hidden, heads, layers, deviation):
    model = build(hidden, heads, layers, initializer_range=deviation)
    second = model.bert.encoder.layer[-1].attention.self.query.weight.clone()
    start_with_neighbours(model)
    model.save_pretrained(tmp_path)
    stock = BertModel.from_pretrained(tmp_path, attn_implementation="eager", add_pooling_layer=False).eval()
    ids = torch.randint(5, 50, (8, 40), generator=torch.Generator().manual_seed(1))
    weights = stock(ids, output_attentions=True).attentions[0].mean(dim=0)
    for head, offset in enumerate([-1, 1, -2, 2, -3, 3][:heads]):
        mean = torch.stack([weights[head, place, place + offset] for place in range(5, 35)]).mean()
        assert mean > 0.5, (head, float(mean))  # 0.025 where a head attends to all alike
    assert layers == 1 or torch.equal(second, model.bert.encoder.layer[-1].attention.self.query.weight)


def test_the_first_prediction_is_the_word_whose_row_is_nearest_to_those_of_the_neighbours():
    model = build(256, 4, initializer_range=0.0625).eval()
    start_with_neighbours(model)
    for word in (7, 23, 41):
        ids = torch.full((1, 21), word)
        ids[0, 0], ids[0, 10] = 2, 4
        logits = model(ids).logits[0, 10]
        logits[4] = -torch.inf  # the mask's own row
        assert logits.argmax() == word


def test_a_convolution_and_odd_heads_are_left_alone():
    for model in (build(64, 1, conv_channels=2, conv_kernel_sizes=[[3, 3]]), build(27, 3)):
        before = {name: weights.clone() for name, weights in model.state_dict().items()}
        start_with_neighbours(model)
        assert all(torch.equal(weights, before[name]) for name, weights in model.state_dict().items())


def test_word_rows_keep_their_directions_and_get_the_length_of_new_weights():
    model = build(256, 4, initializer_range=0.02)
    before = model.bert.embeddings.word_embeddings.weight.detach().clone()
    rows = np.random.default_rng(0).normal(size=(50, 256)).astype(np.float32)
    rows[:5], rows[5], rows[6] = 0, rows[5] * 100, rows[6] / 100
    start_from_counts(model, rows)
    words = model.cls.predictions.decoder.weight.detach()
    assert torch.equal(words[:5], before[:5])
    lengths = words.norm(dim=1) / (0.02 * 16)
    assert 1.9 < lengths[5] < 2.2
    assert 0.3 < lengths[6] < 0.55  # 0.3 and noise of 0.32, at right angles
    cosines = torch.nn.functional.cosine_similarity(words[7:], torch.from_numpy(rows[7:]))
    assert cosines.min() > 0.6
    with pytest.raises(RuntimeError):
        start_from_counts(model, rows[:, :8])


def test_cls_predicts_a_word_of_its_text_by_weight(tokenizer):
    ordinary = MaskingCollator(tokenizer).ordinary[:4]
    ids = np.array([tokenizer.cls_token_id, *ordinary[[0, 0, 1, 2, 2, 2]], tokenizer.sep_token_id])
    weights = np.zeros(len(tokenizer))
    weights[ordinary] = [1.0, 5.0, 1.0, 9.0]
    rows = [{"input_ids": ids, "item": item} for item in range(4000)]
    rows.append({"input_ids": ids[[0, -1]], "item": 4000})
    plain, batch = MaskingCollator(tokenizer, 0.3)(rows), MaskingCollator(tokenizer, 0.3, cls_weights=weights)(rows)
    assert torch.equal(plain["input_ids"], batch["input_ids"])
    assert torch.equal(plain["labels"][:, 1:], batch["labels"][:, 1:])
    drawn = batch["labels"][:-1, 0]
    shares = [(drawn == token).float().mean().item() for token in ordinary]
    assert np.allclose(shares, [0.2, 0.5, 0.3, 0], atol=0.03)
    assert batch["labels"][-1, 0] == -100


def test_an_encoder_that_starts_from_counts_is_a_stock_bert_and_learns_from_the_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path / "corpus.txt")
    words = ("pretrain", "--corpus", "corpus.txt", "--size", "smoke", "--max-steps", "1", "--learning-rate", "0")
    words = (*words, "--disable-tqdm", "--cls-objective", "true")
    for name in ("counts", "random"):
        succeed(*words, "--initialization", name, "--neighbour-heads", "true", "--output-dir", name)
    settings = results_of(tmp_path / "counts")["settings"]
    assert [settings[name] for name in ("initialization", "neighbour_heads", "cls_objective")] == ["counts", True, True]
    tables = [BertForMaskedLM.from_pretrained(name).bert.embeddings for name in ("counts", "random")]
    rows = [table.word_embeddings.weight for table in tables]
    positions = [table.position_embeddings.weight for table in tables]
    assert torch.equal(rows[0][:5], rows[1][:5])  # special tokens are not counted
    assert not torch.equal(rows[0][5:], rows[1][5:])
    assert not positions[0][0].any()
