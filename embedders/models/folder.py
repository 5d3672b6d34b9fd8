"""The facts of a model's folder, read without loading the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.embedders.models.files import count, read_modules, read_object
from situate.errors import ModelError, ModelNotFoundError

#: Position tables of these start after the padding id, so two of their rows are never used.
OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "xmod", "data2vec-text"}
)
_UNLIMITED = 1 << 30
_HIDDEN = ("hidden_size", "d_model", "dim", "n_embd")
#: Sizes of 1 or more that every architecture has, under its names for them.
_COUNTS = (
    *_HIDDEN,
    *(
        "num_hidden_layers",
        "num_layers",
        "n_layers",
        "n_layer",
        "num_attention_heads",
        "num_heads",
        "n_heads",
        "n_head",
    ),
    *("intermediate_size", "d_ff", "hidden_dim", "vocab_size", "max_position_embeddings", "n_positions"),
)


@dataclass(frozen=True)
class DenseHead:
    """A linear layer that sentence-transformers puts after the pooling (``2_Dense``)."""

    folder: Path
    in_features: int
    out_features: int
    activation: str


@dataclass(frozen=True)
class ModelFolder:
    """The facts of a model folder.

    Attributes:
        path: The folder.
        model_type: The architecture's name in transformers.
        hidden_size: Length of a token vector.
        position_limit: Most tokens that the model has positions for, special tokens included.
        trained_tokens: Tokens it was trained to read: where sentence-transformers truncates.
        heads: Linear layers after the pooling.
        experts: Per layer, how many experts it chooses from; 0 for a layer without, () for a model without.
    """

    path: Path
    model_type: str
    hidden_size: int
    position_limit: int
    trained_tokens: int
    heads: tuple[DenseHead, ...]
    experts: tuple[int, ...] = ()

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Read ``config.json`` and sentence-transformers' own files beside it.

        Raises:
            ModelNotFoundError: There is no ``config.json``.
            ModelError: A file is damaged, or a number in it is none that a model can have.
        """
        modules = read_modules(path)
        transformer = path / str(modules[0].get("path") or "") if modules else path
        file = transformer / "config.json"
        config = read_object(file)
        if not config:
            raise ModelNotFoundError(
                f"{str(path)!r} holds no config.json: give the folder of a transformers or sentence-transformers model"
            )
        text_config = {**config, **(config.get("text_config") or {})}
        counts = {name: number for name in _COUNTS if (number := count(text_config, name, file)) is not None}
        model_type = str(config.get("model_type", ""))
        limit = counts.get("max_position_embeddings") or counts.get("n_positions") or _UNLIMITED
        if model_type in ("t5", "mt5", "umt5"):
            limit = _UNLIMITED  # relative positions; n_positions is only what it was pre-trained at
        if model_type in OFFSET_POSITIONS:
            limit -= (count(config, "pad_token_id", file, least=0) or 0) + 1
        trained = stored_max_tokens(transformer)
        if trained is None:
            tokenizer = transformer / "tokenizer_config.json"
            longest = count(read_object(tokenizer), "model_max_length", tokenizer) or _UNLIMITED
            trained = min(longest, limit)
            if trained >= _UNLIMITED:
                trained = 512
        return cls(
            path=transformer,
            model_type=model_type,
            hidden_size=next((counts[name] for name in _HIDDEN if name in counts), 0),
            position_limit=limit,
            trained_tokens=min(trained, limit),
            heads=tuple(_heads(path, modules)),
            experts=_experts(text_config, file),
        )

    @property
    def dimension(self) -> int:
        """Length of a vector before any Matryoshka cut."""
        return self.heads[-1].out_features if self.heads else self.hidden_size


def _experts(config: dict[str, Any], file: Path) -> tuple[int, ...]:
    """How many experts each layer chooses from, by the names that transformers' mixtures have for it."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((number for name in names if (number := count(config, name, file, least=0))), 0)
    if not experts:
        return ()
    layers = count(config, "num_hidden_layers", file) or 0
    dense = count(config, "first_k_dense_replace", file, least=0) or 0
    step = count(config, "decoder_sparse_step", file) or 1
    without = config.get("mlp_only_layers") or ()
    return tuple(
        experts if layer >= dense and layer not in without and (layer + 1) % step == 0 else 0 for layer in range(layers)
    )


def stored_max_tokens(folder: Path) -> int | None:
    """Where sentence-transformers truncates a text, by its file in ``folder``; None where it has no limit.

    Raises:
        ModelError: The file is damaged, or holds no number of tokens.
    """
    file = folder / "sentence_bert_config.json"
    return count(read_object(file), "max_seq_length", file)


def _heads(path: Path, modules: list[dict[str, Any]]) -> Iterator[DenseHead]:
    for module in modules:
        if str(module.get("type", "")).rsplit(".", 1)[-1] != "Dense":
            continue
        folder = path / str(module.get("path", ""))
        config = read_object(folder / "config.json")
        sizes = [count(config, name, folder / "config.json") for name in ("in_features", "out_features")]
        in_features, out_features = sizes
        if in_features is None or out_features is None:
            raise ModelError(f"{folder / 'config.json'} lacks in_features or out_features: fetch the model again")
        activation = str(config.get("activation_function", "torch.nn.modules.linear.Identity"))
        yield DenseHead(folder, in_features, out_features, activation.rsplit(".", 1)[-1])
