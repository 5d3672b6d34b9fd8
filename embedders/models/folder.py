"""What a model's folder says about the model, read without loading it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from situate.errors import ModelNotFoundError

#: Position tables of these start after the padding id, so two of their rows are never used.
OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "xmod", "data2vec-text"}
)
_UNLIMITED = 1 << 30


@dataclass(frozen=True)
class DenseHead:
    """A linear layer that sentence-transformers puts behind the pooling (``2_Dense``)."""

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
        heads: Linear layers behind the pooling.
    """

    path: Path
    model_type: str
    hidden_size: int
    position_limit: int
    trained_tokens: int
    heads: tuple[DenseHead, ...]

    @classmethod
    def read(cls, path: Path) -> ModelFolder:
        """Read ``config.json`` and sentence-transformers' own files beside it.

        Raises:
            ModelNotFoundError: There is no ``config.json``.
        """
        modules = _list(path / "modules.json")
        transformer = path / (modules[0].get("path") or "") if modules else path
        config = _dict(transformer / "config.json")
        if not config:
            raise ModelNotFoundError(
                f"{str(path)!r} holds no config.json: hand over the folder of a transformers or "
                "sentence-transformers model"
            )
        text_config = {**config, **(config.get("text_config") or {})}
        model_type = str(config.get("model_type", ""))
        hidden = text_config.get("hidden_size") or text_config.get("d_model") or text_config.get("dim")
        hidden = hidden or text_config.get("n_embd")
        limit = text_config.get("max_position_embeddings") or text_config.get("n_positions") or _UNLIMITED
        if model_type in ("t5", "mt5", "umt5"):
            limit = _UNLIMITED  # relative positions; n_positions is only what it was pre-trained at
        if model_type in OFFSET_POSITIONS:
            limit -= int(config.get("pad_token_id") or 0) + 1
        trained = _dict(transformer / "sentence_bert_config.json").get("max_seq_length")
        if not trained:
            said = _dict(transformer / "tokenizer_config.json").get("model_max_length") or _UNLIMITED
            trained = min(int(said), limit)
            if trained >= _UNLIMITED:
                trained = 512
        return cls(
            path=transformer,
            model_type=model_type,
            hidden_size=int(hidden or 0),
            position_limit=int(limit),
            trained_tokens=min(int(trained), int(limit)),
            heads=tuple(_heads(path, modules)),
        )

    @property
    def dimension(self) -> int:
        """Length of a vector before any Matryoshka cut."""
        return self.heads[-1].out_features if self.heads else self.hidden_size


def _heads(path: Path, modules: list[dict[str, Any]]) -> list[DenseHead]:
    heads = []
    for module in modules:
        if str(module.get("type", "")).rsplit(".", 1)[-1] != "Dense":
            continue
        folder = path / str(module.get("path", ""))
        config = _dict(folder / "config.json")
        heads.append(
            DenseHead(
                folder=folder,
                in_features=int(config["in_features"]),
                out_features=int(config["out_features"]),
                activation=str(config.get("activation_function", "torch.nn.modules.linear.Identity")).rsplit(".", 1)[
                    -1
                ],
            )
        )
    return heads


def _dict(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return value if isinstance(value, dict) else {}


def _list(path: Path) -> list[dict[str, Any]]:
    value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    return value if isinstance(value, list) else []
