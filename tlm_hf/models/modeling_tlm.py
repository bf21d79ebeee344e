# Copyright 2026 The tlm_hf contributors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Tiny language models: stock BERT's weights and names, with a last layer that computes only what is read.

This file travels to the Hub as remote code; it needs torch and transformers only. Weight names are stock BERT's
(`bert.encoder.layer.N...`, `cls.predictions...`, `classifier`), so an encoder without convolution opens anywhere.

Loss, logits and gradients are stock BERT's to rounding with dropout 0, but the last layer is computed only where the
head reads: at the masked positions for masked language modelling (about 15%), at [CLS] for classification. For a
one-layer model that is nearly the whole model. `fast_paths_tlm` has the derivations and their conditions; the fast
paths are taken when nothing that they skip was asked for, and `config.use_fast_path = False` switches them off.
"""

import warnings
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_tlm import TLMConfig
from .convolution_tlm import TLMConvolutionFrontEnd, pad_inputs
from .fast_paths_tlm import (
    IGNORE_INDEX,
    Queries,
    TLMDropout,
    adds_rows_in_place,
    is_bare,
    loss_is_fused,
    narrowed,
    pack_positions,
    sum_masked_lm_loss,
)
from .layers_tlm import (
    TLMEmbeddings,
    TLMEncoder,
    TLMLayer,
    TLMLMPredictionHead,
    TLMOnlyMLMHead,
    TLMPooler,
    TLMSelfAttention,
)


class TLMPreTrainedModel(PreTrainedModel):  # trf-ignore: TRF057
    """Base of all encoders: initialisation, loading and the conditions of the fast path."""

    config: TLMConfig
    config_class = TLMConfig
    base_model_prefix = "bert"
    _no_split_modules = ["TLMEmbeddings", "TLMLayer"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": TLMLayer, "attentions": TLMSelfAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Stock BERT's: normal(0, initializer_range), LayerNorms 1 and 0, biases 0 (there is no buffer of ours)."""
        super()._init_weights(module)
        if isinstance(module, TLMLMPredictionHead):
            init.zeros_(module.bias)  # leaves a loaded bias alone

    def last_layer_is_reducible(self, attention_mask: torch.Tensor | None, options: dict[str, Any]) -> bool:
        """Whether the last layer may be computed only at the positions that the head reads.

        Args:
            attention_mask: the user's mask, None or (batch, sequence); a mask that differs by query forbids it.
            options: the caller's keyword arguments; asking for hidden states or attentions forbids it.
        """
        wants_more = any(
            (value if (value := options.get(name)) is not None else getattr(self.config, name, False))
            for name in ("output_hidden_states", "output_attentions")
        )
        plain_mask = attention_mask is None or attention_mask.dim() == 2
        # Other backends take other masks.
        known_backend = self.config._attn_implementation in (None, "eager", "sdpa")  # trf-ignore: TRF051
        return self.config.use_fast_path and not wants_more and plain_mask and known_backend


def warn_of_tied_adapter(words: nn.Module, decoder: nn.Module) -> None:
    """Warn of an adapter on the word embeddings or on the decoder while they are one matrix; PEFT knows other names."""
    adapted = words is not getattr(words, "base_layer", words) or decoder is not getattr(decoder, "base_layer", decoder)
    if adapted and words.weight is decoder.weight and not torch.compiler.is_compiling():
        warnings.warn(
            "An adapter stands on the word embeddings or the decoder, which are tied (one matrix): merging it would "
            "change both, so leave `word_embeddings` and `decoder` out of target_modules, or do not merge."
        )


class TLMModel(TLMPreTrainedModel):  # trf-ignore: TRF057
    """The encoder: stock `BertModel` with an optional convolution front-end."""

    def __init__(self, config: TLMConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = TLMEmbeddings(config)
        # CODEPATH: bert-1-conv* have a front-end; bert-6, bert-1 and bert-1-wide have none.
        self.front_end = TLMConvolutionFrontEnd(config) if config.has_convolution else None
        self.encoder = TLMEncoder(config)
        self.pooler = TLMPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word embedding (vocab_size, hidden)."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embedding."""
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        queries: Queries | None = None,
        sparse_gradient: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode a batch of texts.

        Args:
            input_ids: int64 (batch, sequence).
            attention_mask: (batch, sequence), 1 for tokens and 0 for padding; or 4-d as in stock BERT.
            token_type_ids: int64 (batch, sequence); zeros by default.
            position_ids: int64 (batch or 1, sequence); 0..sequence-1 by default.
            inputs_embeds: (batch, sequence, hidden) in place of `input_ids`.
            queries: compute the last layer at these positions only, see
                `TLMPreTrainedModel.last_layer_is_reducible` for when that is allowed.
            sparse_gradient: see `TLMEmbeddings.forward`.
            **kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, options of the attention backend.

        Returns:
            `last_hidden_state` (batch, sequence, hidden), or at the queries only (`TLMLayer.forward`), and
            `pooler_output` (batch, hidden), None without a pooler or when the queries are flattened.

        Raises:
            ValueError: when both or neither of `input_ids` and `inputs_embeds` are given, when the text is longer
                than `max_position_embeddings`, or when a convolution front-end gets a mask that is not 2-d (unless
                `conv_sees_padding`).
        """
        tokens = input_ids if inputs_embeds is None else inputs_embeds
        if tokens is None or (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        inputs = (input_ids, token_type_ids, position_ids, inputs_embeds)
        # CODEPATH: the authors' own convolution checkpoints see padding, ours do not.
        if self.config.conv_sees_padding:
            inputs = pad_inputs(self.config, self.embeddings.word_embeddings, *inputs)
        hidden_states = self.embeddings(*inputs, sparse_gradient=sparse_gradient)
        if self.front_end is not None:
            hidden_states = self.front_end(hidden_states, attention_mask)
        # CODEPATH: the authors' own convolution checkpoints see padding, ours do not.
        if self.config.conv_sees_padding:
            # What `pad_inputs` added is for the convolution alone: attention would mask it, so it goes before the
            # layers, and every output has the caller's length. (torch.export takes no slice here for any length.)
            given = torch.arange(tokens.shape[1], device=hidden_states.device)
            hidden_states = hidden_states.index_select(1, given)
        hidden_states = narrowed(hidden_states, self.config, self.training)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask)
        hidden_states = self.encoder(hidden_states, mask, queries, **kwargs)
        flat = hidden_states.dim() == 2
        pooled = self.pooler(hidden_states) if self.pooler is not None and not flat else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class TLMForMaskedLM(TLMPreTrainedModel):  # trf-ignore: TRF057
    """Masked language model with stock BERT's head; in training it computes nothing that the loss does not read."""

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: TLMConfig) -> None:
        super().__init__(config)
        self.bert = TLMModel(config, add_pooling_layer=False)
        self.cls = TLMOnlyMLMHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a masked language model, as `PreTrainedModel.from_pretrained`.

        Raises:
            ValueError: when the folder holds a classifier, whose language-model head would be random.
        """
        config = kwargs.get("config")
        if config is None and kwargs.get("state_dict") is None:
            lookup = {
                key: kwargs[key] for key in ("revision", "subfolder", "token", "cache_dir", "local_files_only")
                if key in kwargs
            }  # fmt: skip
            config, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **lookup)
            config = cls.config_class.from_dict(config)
        architectures = getattr(config, "architectures", None) or []
        if any("SequenceClassification" in name for name in architectures):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a classifier, which has no masked-language-model head: open it "
                "with AutoModelForSequenceClassification, or load the encoder that it was fine-tuned from."
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder (vocab_size, hidden)."""
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder together with its bias."""
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias

    @can_return_tuple
    def forward(  # trf-ignore: TRF057
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        sparse_prediction: bool | None = None,
        num_predictions: int | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict masked tokens; inputs as in `TLMModel.forward`.

        Args:
            input_ids: as in `TLMModel.forward`.
            attention_mask: as in `TLMModel.forward`.
            token_type_ids: as in `TLMModel.forward`.
            position_ids: as in `TLMModel.forward`.
            inputs_embeds: as in `TLMModel.forward`.
            labels: int64 (batch, sequence), -100 where no loss is taken.
            sparse_prediction: with `labels`, score only the labelled positions; None (default) means in training.
            num_predictions: at most so many labels stand in a row: where only labelled positions are scored, score so
                many of each row (static shapes for torch.compile, torch.export and CUDA graphs). Without it a compiled
                model scores every position.
            **kwargs: as in `TLMModel.forward`; `num_items_in_batch` divides the summed loss (Trainer's accumulation).

        Returns:
            `loss`, the mean cross-entropy over labelled positions in nats (NaN when there is none, as in stock BERT),
            and `logits`: (batch, sequence, vocab_size); (labelled positions, vocab_size) in row-major order when
            sparse; (batch, num_predictions or fewer, vocab_size), labelled positions first,
            when sparse with `num_predictions`.

        Raises:
            ValueError: when a row has more labels than `num_predictions` (a compiled model cannot tell).
        """
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "return_dict": True,
        }
        queries = selected = None
        if labels is not None and (self.training if sparse_prediction is None else sparse_prediction):
            queries, selected, labels = self.select_labelled(labels, num_predictions)
        words, decoder = self.bert.embeddings.word_embeddings, self.cls.predictions.decoder
        warn_of_tied_adapter(words, decoder)
        fused = selected is not None and self.config.use_fast_path and self.loss_function is ForMaskedLMLoss
        fused = fused and is_bare(self.cls, self.cls.predictions)  # which are passed by
        is_reduced = queries is not None and self.last_layer_is_reducible(attention_mask, kwargs)
        # Only where nothing leaves the model that has not gone through the decoder: the rows alone would be sparse.
        if fused and is_reduced and adds_rows_in_place(words, decoder):
            inputs["sparse_gradient"] = loss_is_fused(decoder)
        outputs = self.bert(input_ids, queries=queries if is_reduced else None, **inputs, **kwargs)
        hidden_states = outputs.last_hidden_state
        if selected is not None and not is_reduced:
            hidden_states = hidden_states[selected]
        elif queries is not None and not is_reduced:
            hidden_states = hidden_states.gather(1, queries.positions[..., None].expand(-1, -1, hidden_states.shape[2]))
        loss = None
        if fused and labels is not None and loss_is_fused(decoder):
            total, logits = sum_masked_lm_loss(decoder, self.cls.predictions.transform(hidden_states), labels)
            items = kwargs.get("num_items_in_batch")
            loss = total / (len(logits) if items is None else items)
        else:
            logits = self.cls(hidden_states)
            if labels is not None:
                loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    @staticmethod
    def select_labelled(
        labels: torch.Tensor, num_predictions: int | None
    ) -> tuple[Queries | None, torch.Tensor | None, torch.Tensor]:
        """Choose the positions to score.

        Args:
            labels: int64 (batch, sequence), -100 where no loss is taken.
            num_predictions: see `forward`.

        Returns:
            The queries (None: score every position), the bool mask (batch, sequence) of labelled positions where their
            count is free (else None), and the labels of what is scored, (count,) or (batch, num_predictions).
        """
        selected = labels != IGNORE_INDEX
        compiling = torch.compiler.is_compiling()
        if num_predictions is None:
            if compiling:
                return None, None, labels
            return Queries(*pack_positions(selected)), selected, labels[selected]
        if not compiling and int(selected.sum(dim=1).max()) > num_predictions:
            raise ValueError(
                f"A row has {int(selected.sum(dim=1).max())} labels but num_predictions is {num_predictions}: raise it."
            )
        positions, _ = pack_positions(selected, num_predictions)
        return Queries(positions), None, labels.gather(1, positions)


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
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify texts; inputs as in `TLMModel.forward`.

        Args:
            input_ids: as in `TLMModel.forward`.
            attention_mask: as in `TLMModel.forward`.
            token_type_ids: as in `TLMModel.forward`.
            position_ids: as in `TLMModel.forward`.
            inputs_embeds: as in `TLMModel.forward`.
            labels: (batch,) class ids, or what `config.problem_type` says (regression: floats; multi-label:
                (batch, labels) of 0. and 1.), as in stock BERT.
            **kwargs: as in `TLMForMaskedLM.forward`.

        Returns:
            `loss` (mean over the batch) and `logits` (batch, num_labels).
        """
        inputs: dict[str, Any] = {
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "return_dict": True,
        }
        tokens = input_ids if input_ids is not None else inputs_embeds
        if tokens is not None and self.last_layer_is_reducible(attention_mask, kwargs):
            first = torch.zeros((tokens.shape[0], 1), dtype=torch.long, device=tokens.device)
            inputs["queries"] = Queries(first)
        outputs = self.bert(input_ids, **inputs, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
            items = kwargs.get("num_items_in_batch")
            if items is not None and self.config.problem_type != "single_label_classification":
                # The stock losses of the other problem types ignore it: accumulated steps would be that much too large.
                loss = loss * (labels.numel() / items)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


TLMModel.register_for_auto_class("AutoModel")
TLMForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
TLMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = ["TLMForMaskedLM", "TLMForSequenceClassification", "TLMModel", "TLMPreTrainedModel"]
