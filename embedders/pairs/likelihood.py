"""QueryLikelihoodModel: how likely a decoder finds the query after it has read the passage.

Sachan et al. 2022, "Improving Passage Retrieval with Zero-Shot Question Generation" (UPR); Muennighoff 2022, "SGPT: GPT
Sentence Embeddings for Semantic Search" (SGPT-CE); the idea is Ponte and Croft 1998.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from situate.embedders.pairs.cross_encoder import PairScores
from situate.embedders.pairs.decoder import Decoder
from situate.embedders.pairs.tokens import Pair
from situate.embedders.text.tokenizer import Ids, TokenizedText
from situate.errors import InputError
from situate.parameters import checked_parameters

#: No vocabulary has words longer than this many characters a token on average: text beyond is never read.
_CHARACTERS_PER_TOKEN = 16


@checked_parameters
@dataclass(frozen=True)
class LikelihoodTemplate:
    """What a decoder reads before the query.

    Attributes:
        passage: The text with ``{passage}`` in it.
        query: The text with ``{query}`` in it that follows; its tokens are scored.

    Raises:
        InputError: A field lacks its place holder.
    """

    passage: str
    query: str = " {query}"

    def __post_init__(self) -> None:
        for name in ("passage", "query"):
            if f"{{{name}}}" not in getattr(self, name):
                raise InputError(f"the template's {name}={getattr(self, name)!r} has no {{{name}}} in it")
        if self.passage.strip() == "{passage}":
            raise InputError("the template's passage holds nothing but the passage: a query needs a word before it")


DEFAULT_DECODER = "Qwen/Qwen3-0.6B-Base"
#: The prompt of UPR, and the one of SGPT-CE.
UPR = LikelihoodTemplate("Passage: {passage}\nPlease write a question based on this passage.\nQuestion:")
SGPT = LikelihoodTemplate(
    'Documents are searched to find matches with the same content.\nThe document "{passage}" is a good search result '
    'for "',
    "{query}",
)


@checked_parameters
class QueryLikelihoodModel:
    """Scores pairs by the mean log-likelihood of the query's tokens, given the passage (a `PairScorer`).

    Any causal language model, trained for ranking or not. A score is at most 0, and compares passages of one query:
    do not put a threshold on it. `PairScores.spread` is the standard error of the mean over the query's tokens: two
    passages whose scores differ by less are not told apart. A passage that is too long is cut, and a query keeps at
    most half of the room; lost tokens are counted. Control tokens of the model in either are read as plain text.

    Args:
        model: A model folder or hub id, or a `Decoder` with settings of one's own.
        template: What is read before the query: `UPR`, `SGPT`, or one's own.
    """

    #: What a score is.
    output = "log_likelihood"

    def __init__(
        self, model: str | os.PathLike[str] | Decoder = DEFAULT_DECODER, *, template: LikelihoodTemplate = UPR
    ) -> None:
        self.decoder = model if isinstance(model, Decoder) else Decoder(model)
        self.template = template

    def __repr__(self) -> str:
        return f"QueryLikelihoodModel({self.decoder!r})"

    def score(self, pairs: Sequence[Pair]) -> PairScores:
        """One score per (query, passage), in order; 0 for an empty query.

        Raises:
            ModelNotFoundError: There is no such model.
            ModelError: It cannot be loaded.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        ones = np.ones(len(pairs), dtype=np.int64)
        if not pairs:
            return PairScores(np.zeros(0, dtype=np.float32), ones, 0, 0, np.zeros(0, dtype=np.float32))
        beginnings, queries, lost = self.written(pairs)
        found = self.decoder.log_likelihoods(beginnings, queries)
        scores = np.array([values.mean() if len(values) else 0.0 for values in found], dtype=np.float32)
        errors = [values.std() / np.sqrt(len(values)) if len(values) else 0.0 for values in found]
        tokens = sum(map(len, beginnings)) + sum(map(len, queries))
        return PairScores(scores, ones, tokens, lost, np.array(errors, dtype=np.float32))

    async def ascore(self, pairs: Sequence[Pair]) -> PairScores:
        """`score` in a thread."""
        return await asyncio.to_thread(self.score, pairs)

    def written(self, pairs: Sequence[Pair]) -> tuple[list[Ids], list[Ids], int]:
        """Of each pair the tokens before the query, those of the query, and how many were lost in all."""
        loaded = self.decoder.loaded
        head, tail = self.template.passage.split("{passage}", 1)
        frame = head + tail + self.template.query.replace("{query}", "")
        # words may merge differently where texts are put in
        room = loaded.max_tokens - len(loaded.tokenizer.leading) - len(self._tokens([frame])[0].ids) - 4
        if room < 4:
            raise InputError(f"max_tokens={loaded.max_tokens} leaves room for {room} tokens of query and passage")
        queries, lost = self._cut([query for query, _ in pairs], room)
        passages, lost_too = self._cut([passage for _, passage in pairs], room)
        contexts: list[str] = []
        asked: list[str] = []
        lost += lost_too
        for query, passage in zip(queries, passages, strict=True):
            kept = max(room - len(passage.ids), room // 2)
            read = room - min(kept, len(query.ids))
            lost += max(0, len(query.ids) - kept) + max(0, len(passage.ids) - read)
            contexts.append(f"{head}{_beginning(passage, read)}{tail}")
            asked.append(self.template.query.replace("{query}", _beginning(query, kept)) if query.text.strip() else "")
        beginnings: list[Ids] = []
        continuations: list[Ids] = []
        wholes = self._tokens([context + query for context, query in zip(contexts, asked, strict=True)])
        for context, whole in zip(contexts, wholes, strict=True):
            first = int(np.searchsorted(np.maximum.accumulate(whole.offsets[:, 1]), len(context), side="right"))
            beginning = np.concatenate([loaded.tokenizer.leading, whole.ids[:first]])
            continuations.append(whole.ids[first:])
            beginnings.append(beginning[-(loaded.max_tokens - len(whole.ids) + first) :])
        return beginnings, continuations, lost

    def _cut(self, texts: Sequence[str], limit: int) -> tuple[list[TokenizedText], int]:
        """The tokens of each text's beginning, and an estimate of how many follow it, in all."""
        end = limit * _CHARACTERS_PER_TOKEN
        different = dict.fromkeys(texts)
        tokens = dict(zip(different, self._tokens([text[:end] for text in different]), strict=True))
        return [tokens[text] for text in texts], sum(max(0, len(text) - end) // 4 for text in texts)

    def _tokens(self, texts: Sequence[str]) -> list[TokenizedText]:
        return self.decoder.loaded.tokenizer.tokenize(texts)


def _beginning(tokens: TokenizedText, count: int) -> str:
    """The text of the first ``count`` tokens."""
    if count >= len(tokens.ids):
        return tokens.text
    return tokens.text[: int(tokens.offsets[count - 1, 1])] if count else ""
