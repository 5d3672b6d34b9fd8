"""`SituateCrossEncoder`: a cross-encoder as LangChain's."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from langchain_core.cross_encoders import BaseCrossEncoder
from pydantic import BaseModel, ConfigDict, Field

from situate.embedders.pairs.cross_encoder import DEFAULT_CROSS_ENCODER, CrossEncoderModel


class SituateCrossEncoder(BaseModel, BaseCrossEncoder):
    """Scores pairs of query and passage, read together (Nogueira and Cho 2019).

    Pairs are run packed, in batches of a number of tokens; long passages are read in overlapping windows instead of
    being cut off. Cheap to construct and pickled as its configuration: the model is loaded for the first pairs.

    Attributes:
        model: Hub id or folder of what sentence-transformers' `CrossEncoder` loads.
        output: "model": what ``CrossEncoder.predict`` returns; "logit": the raw number; "probability": in [0, 1].
        aggregation: How the windows of a long passage become one score: "max", "first", "sum", "parade".
        max_tokens: Tokens of a window, the query's included; None: what the model says.
        instruction: The task, for decoders that take one.
        device: "auto", or a torch device.
        dtype: "auto", "float32", "bfloat16", "float16".
        revision: The commit of the hub's repository.
        trust_remote_code: Whether the model's own Python code may run.
        allow_pickle: Whether pickled weights, which can run any code, may be read.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = DEFAULT_CROSS_ENCODER
    output: Literal["model", "logit", "probability"] = "probability"
    aggregation: Literal["max", "first", "sum", "parade"] = "max"
    max_tokens: int | None = Field(default=None, ge=1)
    instruction: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @cached_property
    def scorer(self) -> CrossEncoderModel:
        """The model underneath."""
        return CrossEncoderModel(
            self.model,
            output=self.output,
            aggregation=self.aggregation,
            max_tokens=self.max_tokens,
            instruction=self.instruction,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            allow_pickle=self.allow_pickle,
        )

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """One score per (query, passage), in order; higher is better."""
        return [float(score) for score in self.scorer.score(text_pairs).scores]

    async def ascore(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """`score` without blocking the event loop."""
        return [float(score) for score in (await self.scorer.ascore(text_pairs)).scores]

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        return {**state, "__dict__": {k: v for k, v in state["__dict__"].items() if k != "scorer"}}
