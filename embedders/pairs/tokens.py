"""Pairs of texts as a cross-encoder reads them: token ids, and the windows of passages that are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from situate.embedders.text.tokenizer import Ids, TextTokenizer, TokenizedText
from situate.embedders.text.windows import windows
from situate.errors import ConventionError, InputError

Pair: TypeAlias = tuple[str, str]
Aggregation: TypeAlias = Literal["max", "first", "sum", "parade"]

#: No vocabulary has words longer than this many characters a token on average: text beyond is never read.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True)
class DecoderTemplate:
    """The prompt of a decoder that answers yes or no about a pair.

    Attributes:
        prefix: The text before everything else.
        body: The question, with ``{query}`` and ``{passage}`` in it, and ``{instruction}`` where it takes one.
        suffix: The text after it; the next token is the answer.
        yes: The token of a relevant passage.
        no: The token of an irrelevant one; None: the score is the logit of ``yes`` alone.
        instruction: The default task.
    """

    prefix: str
    body: str
    suffix: str
    yes: str = "yes"
    no: str | None = "no"
    instruction: str = "Given a web search query, retrieve relevant passages that answer the query"


#: The model cards of Qwen3-Reranker and of bge-reranker-v2-gemma.
QWEN3_RERANKER = DecoderTemplate(
    prefix="<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
    body="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {passage}",
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
)
BGE_RERANKER_GEMMA = DecoderTemplate(
    prefix="<bos>",
    body="A: {query}\nB: {passage}",
    suffix="\nGiven a query A and a passage B, determine whether the passage contains an answer to the query by "
    "providing a prediction of either 'Yes' or 'No'.",
    yes="Yes",
    no=None,
)
#: By ``model_type`` of a model that is a causal language model.
TEMPLATES = {"qwen3": QWEN3_RERANKER, "gemma": BGE_RERANKER_GEMMA, "gemma2": BGE_RERANKER_GEMMA}


@dataclass(frozen=True)
class WrittenPairs:
    """Pairs as token ids.

    Attributes:
        sequences: Of each window, the ids that the model reads.
        second: int64 ``[sequences]``: where the passage begins in each.
        owner: int64 ``[sequences]``: whose window it is; windows of a pair follow each other.
        lost_tokens: Tokens of queries and passages that are in no window.
    """

    sequences: list[Ids]
    second: NDArray[np.int64]
    owner: NDArray[np.int64]
    lost_tokens: int


class PairWriter:
    """Writes pairs as token ids.

    A query keeps at most half of the window where the passage is long too (sentence-transformers' "longest first").

    Args:
        tokenizer: The model's tokenizer.
        max_tokens: Tokens of a window, everything included.
        overlap: Tokens of the passage that neighbouring windows share.
        max_windows: At most so many windows of a passage; the rest is not read.
        template: A decoder's prompt; None for a model that takes pairs.
        instruction: The decoder's task; None for the template's own. Without a template it stands before the query.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        *,
        max_tokens: int,
        overlap: int = 64,
        max_windows: int = 8,
        template: DecoderTemplate | None = None,
        instruction: str | None = None,
    ) -> None:
        if tokenizer.backend is None:
            raise ConventionError(
                "this cross-encoder's tokenizer has no fast form (tokenizer.json), which pairs need: convert it with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        self._backend = tokenizer.backend
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._overlap = overlap
        self._max_windows = max_windows
        self._template = template
        self._instruction = instruction
        if template is None:
            self._before, self._between, self._behind = self._pair_frame()
            fixed = len(self._before) + len(self._between) + len(self._behind)
        else:
            self._before, self._behind = self._ids(template.prefix), self._ids(template.suffix)
            self._between = self._ids(self._body("", ""))
            # words may merge differently where texts are put in
            fixed = len(self._before) + len(self._between) + len(self._behind) + 4
        self._room = max_tokens - fixed
        if self._room < 4:
            raise InputError(f"max_tokens={max_tokens} leaves room for {self._room} tokens of query and passage")

    def write(self, pairs: Sequence[Pair]) -> WrittenPairs:
        """The windows of each pair; at least one each."""
        if self._template is None and self._instruction:
            pairs = [(self._instruction + query, passage) for query, passage in pairs]
        queries, lost = self._tokenized([query for query, _ in pairs], self._room)
        passages, lost_too = self._tokenized([p for _, p in pairs], self._room * self._max_windows)
        lost += lost_too
        sequences: list[Ids] = []
        second: list[int] = []
        owner: list[int] = []
        for i, (query_text, passage_text) in enumerate(pairs):
            query, passage = queries[query_text], passages[passage_text]
            query_room = max(self._room - len(passage.ids), self._room // 2)
            query_ids = query.ids[:query_room]
            lost += len(query.ids) - len(query_ids)
            room = self._room - len(query_ids)
            overlap = min(self._overlap, room // 2)
            read = min(len(passage.ids), room + (self._max_windows - 1) * (room - overlap))
            lost += len(passage.ids) - read
            # a single window is the beginning, as truncation would leave it
            for window in windows(read, room, overlap):
                if self._template is None:
                    head = np.concatenate([self._before, query_ids, self._between])
                    sequences.append(np.concatenate([head, passage.ids[window.start : window.end], self._behind]))
                    second.append(len(head))
                else:
                    body = self._ids(
                        self._body(_text(query, 0, len(query_ids)), _text(passage, window.start, window.end))
                    )
                    sequences.append(np.concatenate([self._before, body, self._behind])[-self._max_tokens :])
                    second.append(0)
                owner.append(i)
        return WrittenPairs(sequences, np.array(second, dtype=np.int64), np.array(owner, dtype=np.int64), lost)

    def token_id(self, token: str) -> int:
        """The id of an answer.

        Raises:
            ConventionError: The vocabulary has no such token.
        """
        found = self._backend.token_to_id(token)
        if found is None:
            ids = self._ids(token)
            if len(ids) != 1:
                raise ConventionError(f"the answer {token!r} is not one token of the model's vocabulary: see template=")
            found = int(ids[0])
        return found

    def _tokenized(self, texts: Sequence[str], limit: int) -> tuple[dict[str, TokenizedText], int]:
        """The tokens of each different text; of one that is far too long only of its beginning."""
        different = list(dict.fromkeys(texts))
        cut = limit * _CHARACTERS_PER_TOKEN
        offsets = self._template is not None
        tokens = self._tokenizer.tokenize([text[:cut] for text in different], offsets=offsets)
        # the text after the cut counts as a token per four characters: tokenizing it only to count would cost too much
        lost = sum(max(0, len(text) - cut) // 4 for text in different)
        return dict(zip(different, tokens, strict=True)), lost

    def _body(self, query: str, passage: str) -> str:
        assert self._template is not None
        instruction = self._instruction or self._template.instruction
        head, _, rest = self._template.body.replace("{instruction}", instruction).partition("{query}")
        middle, _, tail = rest.partition("{passage}")
        return head + query + middle + passage + tail

    def _ids(self, text: str) -> Ids:
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def _pair_frame(self) -> tuple[Ids, Ids, Ids]:
        """The special tokens before, between and behind the two texts of a pair."""
        encoding = self._backend.encode("a", "b")
        ids, special = encoding.ids, encoding.special_tokens_mask
        texts = [i for i, flag in enumerate(special) if not flag]
        first = [i for i in texts if encoding.sequence_ids[i] == 0]
        second = [i for i in texts if encoding.sequence_ids[i] == 1]
        if not first or not second or first[-1] > second[0]:
            raise ConventionError("this tokenizer does not write pairs as first text, second text: it cannot be used")
        types = encoding.type_ids
        if any(types[: second[0]]) or len(set(types[second[0] :])) != 1 or max(types) > 1:
            raise ConventionError("this tokenizer numbers the texts of a pair in a way that is not BERT's")
        parts = ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]
        before, between, behind = (np.array(part, dtype=np.int64) for part in parts)
        return before, between, behind


def _text(tokens: TokenizedText, first: int, last: int) -> str:
    """The characters of some of a text's tokens."""
    if first >= last:
        return ""
    return tokens.text[int(tokens.offsets[first, 0]) : int(tokens.offsets[last - 1, 1])]
