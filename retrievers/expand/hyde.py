"""HyDE: search with hypothetical answers.

Gao et al. 2022, "Precise Zero-Shot Dense Retrieval without Relevance Labels".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from situate.embedders.types import Vectors
from situate.errors import GenerationError, InputError
from situate.parameters import checked_parameters
from situate.prompting import QUERY_LIMIT, aask, ask, checked_generator, filled, one_line, usable
from situate.retrievers.pipeline.steps import note
from situate.retrievers.types import QueryText
from situate.types import Prompt, TextGenerator
from situate.vectors import mean_direction

# The prompts of the paper's own code, one per task of its experiments.
WEB_SEARCH = "Please write a passage to answer the question.\nQuestion: {query}\nPassage:"
SCIENTIFIC_CLAIM = "Please write a scientific paper passage to support/refute the claim.\nClaim: {query}\nPassage:"
COUNTER_ARGUMENT = "Please write a counter argument for the passage.\nPassage: {query}\nCounter Argument:"
SCIENTIFIC_QUESTION = "Please write a scientific paper passage to answer the question.\nQuestion: {query}\nPassage:"
FINANCE = "Please write a financial article passage to answer the question.\nQuestion: {query}\nPassage:"
ENTITY = "Please write a passage to answer the question.\nQuestion: {query}\nPassage:"
NEWS = "Please write a news passage about the topic.\nTopic: {query}\nPassage:"
IN_LANGUAGE = "Please write a passage in {language} to answer the question in detail.\nQuestion: {query}\nPassage:"


class TextEmbedder(Protocol):
    """The part of an `Embedder` that turns a query's texts into vectors."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``."""
        ...

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``."""
        ...


@checked_parameters
@dataclass(frozen=True)
class HydeSettings:
    """How hypothetical documents are generated and used: everything but the language model.

    Attributes:
        template: The prompt, with ``{query}`` and, where ``language`` is given, ``{language}`` in it: one of this
            module's or one's own.
        drafts: How many to generate; 8 in the paper.
        query_weight: Weight of the query's own vector in the mean, where a draft has 1. The paper's is 1; 0 leaves
            the query out.
        lexical_weight: Weight of the drafts' terms, all drafts together, in the BM25 query, where the query's own
            terms have 1. 0 leaves them out, as the paper does.
        language: The language to write in, for templates that name one.
        max_chars: A longer draft is cut here.
        name: The step's name.

    Raises:
        InputError: The template has no ``{query}``, or a number is outside its range.
    """

    template: str = WEB_SEARCH
    drafts: int = 4
    query_weight: float = 1.0
    lexical_weight: float = 0.0
    language: str | None = None
    max_chars: int = 2_000
    name: str = "hyde"

    def __post_init__(self) -> None:
        if "{query}" not in self.template:
            raise InputError(f"the HyDE template {self.template[:80]!r} has no {{query}}: put it in")
        if "{language}" in self.template and not self.language:
            raise InputError("the HyDE template names a {language}: pass language=, the name of one")
        if not 1 <= self.drafts <= 64:
            raise InputError(f"drafts={self.drafts}: ask for 1 to 64 (the paper takes 8)")
        for name, weight in (("query_weight", self.query_weight), ("lexical_weight", self.lexical_weight)):
            if not 0 <= weight < float("inf"):
                raise InputError(f"{name}={weight} must be 0 or more")
        if self.max_chars < 1:
            raise InputError(f"max_chars={self.max_chars} must be 1 or more")


@checked_parameters
class Hyde:
    """Writes hypothetical documents that would answer the query.

    All drafts are generated in one batched call. They have the role "document", so they are embedded with the
    document instruction: a document is compared with documents, which is the idea of the paper. An answer that
    is empty or a refusal is left out and counted; one that is garbage or in another language is kept, and can move
    the mean vector by its share only.

    Args:
        generator: The language model. It should sample (temperature 0.7 in the paper), or all drafts are alike.
        template: As in `HydeSettings`, like all that follow.
        drafts: How many to generate.
        query_weight: Weight of the query's own vector, where a draft has 1.
        lexical_weight: Weight of the drafts' terms in the BM25 query.
        language: The language to write in.
        max_chars: A longer draft is cut here.
        name: The step's name.

    Attributes:
        settings: These settings as one value.

    Raises:
        InputError: The template has no ``{query}``, or a number is outside its range.
    """

    def __init__(
        self,
        generator: TextGenerator,
        *,
        template: str = WEB_SEARCH,
        drafts: int = 4,
        query_weight: float = 1.0,
        lexical_weight: float = 0.0,
        language: str | None = None,
        max_chars: int = 2_000,
        name: str = "hyde",
    ) -> None:
        self.settings = HydeSettings(template, drafts, query_weight, lexical_weight, language, max_chars, name)
        self.generator = checked_generator(generator)
        self.name = name

    @classmethod
    def from_settings(cls, generator: TextGenerator, settings: HydeSettings) -> Self:
        """A `Hyde` with these settings."""
        return cls(generator, **vars(settings))

    def expand(self, query: str) -> list[QueryText]:
        """The query and its drafts. An empty query is returned alone, without a call of the model.

        Raises:
            GenerationError: The model failed, or no draft was usable.
        """
        prompts = self.prompts(query)
        return self._texts(query, ask(self.generator, prompts) if prompts else [])

    async def aexpand(self, query: str) -> list[QueryText]:
        """`expand` without blocking the event loop."""
        prompts = self.prompts(query)
        return self._texts(query, await aask(self.generator, prompts) if prompts else [])

    def prompts(self, query: str) -> list[Prompt]:
        """The prompt: the query clamped and on one line, so that it cannot add lines to the prompt."""
        line = one_line(query, QUERY_LIMIT)
        if not line:
            return []
        return [
            Prompt(filled(self.settings.template, query=line, language=self.settings.language or ""))
        ] * self.settings.drafts

    def _texts(self, query: str, answers: list[str]) -> list[QueryText]:
        if not answers:
            note(drafts=(), asked=0)
            return [QueryText(query)]
        found = usable(answers, self.settings.max_chars)
        note(
            drafts=found.texts,
            asked=len(answers),
            used=len(found.texts),
            empty=found.empty,
            refused=found.refused,
            clamped=found.clamped,
        )
        if not found.texts:
            raise GenerationError(
                f"none of {len(answers)} HyDE draft(s) could be used: {found.empty} empty, {found.refused} refused. "
                "Look at the prompt's template and at the model's answers"
            )
        texts = [QueryText(query, weight=self.settings.query_weight)]
        texts += [QueryText(draft, role="document") for draft in found.texts]
        if self.settings.lexical_weight:
            share = self.settings.lexical_weight / len(found.texts)
            texts += [QueryText(draft, role="lexical", weight=share) for draft in found.texts]
        return texts


def hyde_vector(embedder: TextEmbedder, query: str, drafts: Sequence[str], *, query_weight: float = 1.0) -> Vectors:
    """HyDE's vector: ``normalise((query_weight * q + d_1 + ... + d_N) / (query_weight + N))``.

    Args:
        embedder: Embeds the query as a query and the drafts as documents.
        query: The query.
        drafts: Hypothetical documents.
        query_weight: The query's weight, where a draft has 1.

    Returns:
        float32 ``[dimension]``, L2-normalised.
    """
    vectors = embedder.embed_queries([query])
    if drafts:
        vectors = np.concatenate([vectors, embedder.embed_documents(list(drafts))])
    return mean_direction(vectors, [query_weight, *[1.0] * len(drafts)])
