"""Reading more tokens at once than a model was trained for, without training it further."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from situate.embedders.models.folder import OFFSET_POSITIONS
from situate.errors import ConventionError, InputError
from situate.parameters import checked_parameters

Method = Literal["linear", "ntk", "yarn", "self", "grouped", "recurrent", "interpolated"]
#: Methods for models with a table of positions (BERT, RoBERTa, ...); the others are for rotary positions.
_TABLES = frozenset({"grouped", "recurrent", "interpolated"})


@checked_parameters
@dataclass(frozen=True)
class Extension:
    """How a model reads longer texts than it was trained for.

    Measure which texts gain: LongEmbed (Zhu et al. 2024, https://arxiv.org/abs/2404.12096) found "ntk" and "self" best
    for retrieval with models of rotary positions (RoPE) that were trained on 512 and on 4,096 tokens, and that these
    gain more than models with a table of positions (BERT, E5).

    Attributes:
        method: For rotary positions: "linear" divides every position (position interpolation, Chen et al. 2023,
            https://arxiv.org/abs/2306.15595). "ntk" raises the base of the frequencies, so that slow ones are
            stretched and fast ones hardly. "yarn" stretches slow frequencies only and sharpens attention (Peng et al.
            2023, https://arxiv.org/abs/2309.00071). These three change short texts' vectors as well. "self" keeps
            neighbours' positions and groups those further away (SelfExtend, Jin et al. 2024,
            https://arxiv.org/abs/2401.01325), in texts longer than ``trained`` only. For a table of positions:
            "grouped" gives neighbouring tokens the same position, "recurrent" begins anew after the last one (short
            texts' vectors stay), "interpolated" puts new positions between the table's.
        trained: Tokens that the model was trained to read; None: its ``max_position_embeddings``.
        neighbours: For "self": tokens less than this apart keep their exact distance. None: ``trained`` divided by
            the factor of extension, LongEmbed's choice.
    """

    method: Method
    trained: int | None = None
    neighbours: int | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"extension {self.method!r} is not one of {', '.join(map(repr, get_args(Method)))}")
        for name, value in (("trained", self.trained), ("neighbours", self.neighbours)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it needs to be 1 or more tokens")
        if self.neighbours is not None and self.method != "self":
            raise InputError(f"neighbours belongs to the method 'self', not to {self.method!r}")

    @classmethod
    def of(cls, extension: Extension | Method | None) -> Extension | None:
        """``extension``, a bare method's name as an `Extension`."""
        return extension if extension is None or isinstance(extension, Extension) else cls(extension)


@dataclass(frozen=True)
class Reach:
    """An `Extension` for one model and one length.

    Attributes:
        method: As in `Extension`.
        trained: Tokens that the model was trained to read.
        target: Tokens that it is to read.
        neighbours: For "self": tokens less than this apart keep their distance.
    """

    method: Method
    trained: int
    target: int
    neighbours: int

    @classmethod
    def of(cls, extension: Extension, position_limit: int, target: int | None) -> Reach:
        """The extension of a model with ``position_limit`` positions to ``target`` tokens.

        Raises:
            InputError: No target was given, or the model reads that many already.
        """
        trained = extension.trained or position_limit
        if target is None:
            raise InputError(f"extension={extension.method!r} needs to know how far: give max_tokens= as well")
        if target <= trained:
            raise InputError(
                f"max_tokens is {target}, but the model reads {trained} tokens as it is: leave extension out, or say "
                "with Extension(..., trained=) that it was trained on fewer"
            )
        neighbours = extension.neighbours or max(1, trained * trained // target)
        if neighbours >= trained:
            raise InputError(f"neighbours is {neighbours}, but has to be less than the {trained} tokens trained on")
        return cls(extension.method, trained, target, neighbours)

    @property
    def factor(self) -> float:
        """How many times further."""
        return self.target / self.trained

    @property
    def group(self) -> int:
        """For "self": how many distant tokens share a position, so that ``target`` tokens fit the trained distances."""
        return -(-(self.target - self.neighbours) // (self.trained - self.neighbours))

    def configure(self, config: Any) -> None:
        """Write the new positions into a transformers configuration.

        Layers with a sliding window keep theirs: they never see further than they were trained to.

        Raises:
            ConventionError: The model has no rotary positions, or they are scaled already.
        """
        config = config.get_text_config()
        ropes = getattr(config, "rope_parameters", None)
        if self.method in _TABLES:
            return  # the table is stretched once it is loaded
        if not isinstance(ropes, dict) or not ropes:
            raise ConventionError(
                f"a model of type {config.model_type!r} has no rotary positions in its configuration, so it cannot "
                f"read longer texts by {self.method!r}: choose 'grouped', 'recurrent' or 'interpolated' for a table of "
                "positions (BERT, RoBERTa), or read them in windows (on_overflow='window'); of a model that has rotary "
                "positions, transformers keeps them there since 5.0"
            )
        nested = [key for key in (getattr(config, "layer_types", None) or ()) if isinstance(ropes.get(key), dict)]
        chosen = [ropes[key] for key in dict.fromkeys(nested) if "sliding" not in key] if nested else [ropes]
        for rope in chosen:
            kind = rope.get("rope_type", "default")
            if kind != "default":
                raise ConventionError(
                    f"this model's positions are scaled already (rope_type {kind!r} in its config.json), and two "
                    "scalings do not add up: leave extension out"
                )
            self._scale(rope, config)
        config.max_position_embeddings = max(self.target, int(config.max_position_embeddings))

    def apply(self, model: Any) -> None:
        """Stretch a loaded model's table of positions, where the method asks for it.

        Raises:
            ConventionError: The model has no such table.
        """
        if self.method not in _TABLES:
            return
        import torch

        config = model.config.get_text_config()
        named = dict(model.named_modules())
        names = [name for name in named if name.rpartition(".")[2] in ("position_embeddings", "wpe")]
        tables = [named[name] for name in names if isinstance(named[name], torch.nn.Embedding)]
        if len(tables) != 1:
            raise ConventionError(
                f"a model of type {config.model_type!r} has no table of positions, which {self.method!r} stretches: "
                "choose 'linear', 'ntk', 'yarn' or 'self' for rotary positions"
            )
        (table,) = tables
        first = int(config.pad_token_id or 0) + 1 if config.model_type in OFFSET_POSITIONS else 0
        old = table.weight.data
        rows = torch.cat([old[:first], self._stretched(old[first : first + self.trained])])
        table.weight = torch.nn.Parameter(rows, requires_grad=False)
        table.num_embeddings = config.max_position_embeddings = len(rows)
        for holder in model.modules():  # buffers as long as the table
            for name in ("position_ids", "token_type_ids"):
                buffer = getattr(holder, name, None)
                if isinstance(buffer, torch.Tensor):
                    places = torch.arange(len(rows), device=buffer.device)[None]
                    setattr(holder, name, places if name == "position_ids" else torch.zeros_like(places))

    def _stretched(self, rows: Any) -> Any:
        """``[trained, hidden]`` -> ``[target, hidden]``."""
        import torch

        at = torch.arange(self.target, device=rows.device)
        if self.method == "recurrent":
            return rows[at % self.trained]
        if self.method == "grouped":
            return rows[at // -(-self.target // self.trained)]
        place = at / self.factor
        below = place.floor().long()
        share = (place - below)[:, None].to(rows.dtype)
        return rows[below] * (1 - share) + rows[(below + 1).clamp(max=self.trained - 1)] * share

    def _scale(self, rope: dict[str, Any], config: Any) -> None:
        if self.method == "ntk":
            head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
            rotated = int(head * rope.get("partial_rotary_factor", 1.0))
            # transformers' "dynamic" grows with the longest text of a pass: a vector would depend on its batch.
            rope["rope_theta"] = rope["rope_theta"] * self.factor ** (rotated / (rotated - 2))
        elif self.method == "linear":
            rope.update(rope_type="linear", factor=self.factor)
        elif self.method == "yarn":
            rope.update(rope_type="yarn", factor=self.factor, original_max_position_embeddings=self.trained)
