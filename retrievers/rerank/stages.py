"""Rerankers one after the other, cheap ones first, each with its own cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.pipeline.steps import note
from situate.retrievers.rerank.ranking import told, warm_up
from situate.retrievers.types import Hit, Reranker


@checked_parameters
@dataclass(frozen=True)
class Stage:
    """One reranker of several.

    Attributes:
        reranker: The reranker.
        keep: How many of its best hits go on; None for all.
        depth: How many hits it is given; None for all. The others are dropped, because scores of different stages
            cannot be compared.

    Raises:
        InputError: ``keep`` or ``depth`` is less than 1.
    """

    reranker: Reranker
    keep: int | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("keep", self.keep), ("depth", self.depth)):
            if value is not None and value < 1:
                raise InputError(f"a stage's {name}={value} must be 1 or more, or None for all")


@checked_parameters
class Stages:
    """Runs stages in order, as one reranker.

    If a stage fails, all of it fails: to degrade stage by stage, pass the rerankers to a `Retriever` instead.

    Args:
        stages: First to last; a bare reranker keeps everything.
        name: The step's name.

    Raises:
        InputError: There is no stage.
    """

    def __init__(self, *stages: Stage | Reranker, name: str = "stages") -> None:
        if not stages:
            raise InputError("a pipeline of stages needs at least one")
        self.stages = tuple(stage if isinstance(stage, Stage) else Stage(stage) for stage in stages)
        self.name = name

    def rerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits after the last stage, best first."""
        found = list(hits)
        for stage in self.stages:
            found = stage.reranker.rerank(query, found[: stage.depth])[: stage.keep]
            note(**{f"after_{stage.reranker.name}": len(found)})
        return found

    def instructed(self, instruction: str) -> Stages:
        """The same stages, those that take a task with this one."""
        stages = (replace(stage, reranker=told(stage.reranker, instruction)) for stage in self.stages)
        return Stages(*stages, name=self.name)

    def warm_up(self) -> None:
        """Load the models of all stages."""
        for stage in self.stages:
            warm_up(stage.reranker)

    async def arerank(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """`rerank` without blocking the event loop."""
        found = list(hits)
        for stage in self.stages:
            found = (await stage.reranker.arerank(query, found[: stage.depth]))[: stage.keep]
            note(**{f"after_{stage.reranker.name}": len(found)})
        return found
