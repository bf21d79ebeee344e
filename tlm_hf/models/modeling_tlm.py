# Copyright 2026 The tlm_hf contributors.  # trf-ignore: TRF028
# SPDX-License-Identifier: Apache-2.0
"""Tiny language models: stock BERT's names, loss and logits, with a last layer that computes only what is read."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertForMaskedLM, BertOnlyMLMHead, BertPooler, BertPreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tlm import TLMConfig
from .convolution_tlm import TLMConvolutionFrontEnd, pad_inputs
from .fast_paths_tlm import MaskedLMLoss, Queries, TLMDropout, loss_is_fusable, narrowed
from .layers_tlm import TLMEmbeddings, TLMEncoder, TLMLayer, TLMSelfAttention


class CardMixin:
    """Writes a model card where there is none, or transformers' empty template; needs the package `tlm_hf`."""

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """As `PreTrainedModel.save_pretrained`, with a card unless the folder is hidden (a part of a training run)."""
        super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        parts = Path(save_directory).absolute().parts
        hidden = any(part.startswith(".") for part in parts[-2:])
        if not hidden and (args[0] if args else kwargs.get("is_main_process", True)):
            self._write_card(save_directory, parts[-1])

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        """What `push_to_hub` calls in the end, with the repository's own card or the template in the folder."""
        self._write_card(working_dir, repo_id)
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)  # type: ignore[misc]

    def _write_card(self, folder: str | os.PathLike, name: str) -> None:
        path = Path(folder) / "README.md"
        if path.exists() and "# Model Card for Model ID" not in path.read_text(encoding="utf-8", errors="replace"):
            return
        try:
            cards = importlib.import_module("tlm_hf.cards")
        except ImportError:
            return
        path.write_text(cards.saved_model_card(self, name), encoding="utf-8")


class TLMPreTrainedModel(CardMixin, BertPreTrainedModel):  # trf-ignore: TRF057
    """Base of encoders and committees: initialisation, loading and the conditions of the fast path."""

    config: TLMConfig
    config_class = TLMConfig
    _no_split_modules = ["TLMEmbeddings", "TLMLayer"]
    _can_record_outputs = {"hidden_states": TLMLayer, "attentions": TLMSelfAttention}

    def last_layer_is_reducible(self, attention_mask: Tensor | None, options: Mapping[str, Any]) -> bool:
        """Whether mask and the caller's options let the last layer be computed only where the head reads."""
        asked = {name: options.get(name) for name in ("output_hidden_states", "output_attentions")}
        if any(getattr(self.config, name, False) if value is None else value for name, value in asked.items()):
            return False
        plain_mask = attention_mask is None or attention_mask.dim() == 2
        known_backend = self.config._attn_implementation in (None, "eager", "sdpa")  # trf-ignore: TRF051
        return self.config.use_fast_path and plain_mask and known_backend  # other backends take other masks


class TLMModel(TLMPreTrainedModel):  # trf-ignore: TRF057
    """The encoder: stock `BertModel` with an optional convolution front-end."""

    _input_embed_layer = "word_embeddings"  # of `embeddings`

    def __init__(self, config: TLMConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = TLMEmbeddings(config)
        # CODEPATH: bert-1-conv* have a front-end; bert-6, bert-1 and bert-1-wide have none.
        self.front_end = TLMConvolutionFrontEnd(config) if config.has_convolution else None
        self.encoder = TLMEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        queries: Queries | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch of texts; inputs as in stock BERT (a 4-d mask only without a convolution).

        With `queries`, where `last_layer_is_reducible`, `last_hidden_state` (batch, sequence, hidden) is computed at
        these positions only (shapes of `Queries.read`). `pooler_output` (batch, hidden) is None without a pooler or
        when the queries are flattened.
        """
        inputs = (input_ids, token_type_ids, position_ids, inputs_embeds)
        states = narrowed(self._embed(inputs, attention_mask), self.config, self.training)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=states, attention_mask=attention_mask)
        states = self.encoder(states, mask, queries, **kwargs)
        pooled = None if self.pooler is None or states.dim() == 2 else self.pooler(states)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=pooled)

    def _embed(self, inputs: tuple, attention_mask: Tensor | None) -> Tensor:
        input_ids, _, position_ids, inputs_embeds = inputs
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if tokens is None or (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        length, longest = tokens.shape[1], self.config.max_position_embeddings
        if length > longest and (position_ids is None or self.config.conv_sees_padding):
            remedy = f"truncate it (tokenizer(..., truncation=True, max_length={longest}))"
            raise ValueError(f"The input has {length} tokens but max_position_embeddings is {longest}: {remedy}.")
        # CODEPATH: the authors' own convolution checkpoints see padding, ours do not.
        if self.config.conv_sees_padding:
            inputs = pad_inputs(self.config, self.embeddings.word_embeddings, inputs)
        hidden_states = self.embeddings(*inputs)
        if self.front_end is not None:
            hidden_states = self.front_end(hidden_states, attention_mask)
        # CODEPATH: as above. What `pad_inputs` added is for the convolution alone: attention would mask it, so every
        # output has the caller's length. (torch.export takes no slice here for any length.)
        if self.config.conv_sees_padding:
            hidden_states = hidden_states.index_select(1, torch.arange(length, device=hidden_states.device))
        return hidden_states


class TLMForMaskedLM(TLMPreTrainedModel):  # trf-ignore: TRF057
    """Masked language model with stock BERT's head; in training it computes nothing that the loss does not read."""

    _tied_weights_keys = BertForMaskedLM._tied_weights_keys
    get_output_embeddings = BertForMaskedLM.get_output_embeddings
    set_output_embeddings = BertForMaskedLM.set_output_embeddings

    def __init__(self, config: TLMConfig) -> None:
        if any("SequenceClassification" in name for name in config.architectures or []):
            remedy = "open it with AutoModelForSequenceClassification, or load the encoder that it was fine-tuned from"
            what = f"{config._name_or_path} holds a classifier, which has no masked-language-model head"
            raise ValueError(f"{what}: {remedy}.")
        super().__init__(config)
        self.bert = TLMModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sparse_prediction: bool | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict masked tokens; inputs as in `TLMModel.forward`.

        `labels` are int64 (batch, sequence), -100 where no loss is taken. With them `sparse_prediction` (None: in
        training) scores only labelled positions. `loss` is the mean cross-entropy over these in nats (NaN when there is
        none, as in stock BERT), or the sum over `num_items_in_batch`. `logits` are those of every position, (batch,
        sequence, vocabulary), or of the labelled ones in row-major order, (labels, vocabulary).
        """
        sparse = self.training if sparse_prediction is None else sparse_prediction
        head = self.cls.predictions
        queries = loss = None
        if labels is not None and sparse and not torch.compiler.is_compiling():  # their count may not shape a graph
            queries, labels = Queries.of_labels(labels)
        fused = queries is not None and self.config.use_fast_path and self.loss_function is ForMaskedLMLoss
        fused = fused and loss_is_fusable(self.cls)
        reduced = queries is not None and self.last_layer_is_reducible(attention_mask, kwargs)
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.bert(*inputs, queries if reduced else None, return_dict=True, **kwargs)
        states = outputs.last_hidden_state
        if queries is not None and not reduced:
            states = queries.read(states)
        if fused:
            total, logits = MaskedLMLoss.apply(head.transform(states), head.decoder.weight, head.decoder.bias, labels)
            items = kwargs.get("num_items_in_batch")
            loss = total / (len(logits) if items is None else items)
        else:
            logits = self.cls(states)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class TLMForSequenceClassification(TLMPreTrainedModel):  # trf-ignore: TRF057
    """Text classifier with stock BERT's head (pooler, dropout, linear layer)."""

    def __init__(self, config: TLMConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = TLMModel(config)
        dropout = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = TLMDropout(dropout, config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts; inputs as in `TLMModel.forward`.

        `labels` are class ids (batch,), or what `config.problem_type` says (regression: floats; multi-label:
        (batch, labels) of 0. and 1.), as in stock BERT; `num_items_in_batch` divides the summed loss.
        """
        tokens = input_ids if input_ids is not None else inputs_embeds
        queries = loss = None
        if tokens is not None and self.last_layer_is_reducible(attention_mask, kwargs):
            queries = Queries(torch.zeros((tokens.shape[0], 1), dtype=torch.long, device=tokens.device))
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.bert(*inputs, queries, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
            items = kwargs.get("num_items_in_batch")
            if items is not None and self.config.problem_type != "single_label_classification":
                loss = loss * (labels.numel() / items)  # which the stock losses of the other problem types ignore
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


TLMModel.register_for_auto_class("AutoModel")
TLMForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
TLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
