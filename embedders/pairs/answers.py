"""AnswerModel: how likely a decoder finds each of a few answers to a prompt.

Its probabilities are the soft scores of Huang and Chen 2024, "InstUPR: Instruction-based Unsupervised Passage Reranking
with Large Language Models".
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from situate.embedders.pairs.decoder import Decoder
from situate.embedders.text.tokenizer import Ids
from situate.errors import InputError, PromptRefusedError
from situate.parameters import checked_parameters
from situate.types import Prompt


@checked_parameters
class AnswerModel:
    """An `AnswerScorer` by any causal language model that follows instructions.

    A prompt is written by the model's own chat template, where it has one. An answer's probability is that of its
    tokens, among the given answers.

    Args:
        model: A model folder or hub id, or a `Decoder` with settings of one's own.
    """

    def __init__(self, model: str | os.PathLike[str] | Decoder) -> None:
        self.decoder = model if isinstance(model, Decoder) else Decoder(model)

    def __repr__(self) -> str:
        return f"AnswerModel({self.decoder!r})"

    def answer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """Per prompt the probability of each answer among them; they sum to 1.

        Raises:
            InputError: There are no answers, or one is empty.
            PromptRefusedError: A prompt is longer than the model reads.
            ModelError: The model cannot be used.
            NonFiniteVectorError: It computed NaN or infinity.
        """
        if not answers or not all(answers):
            raise InputError(f"answers={list(answers)}: give at least one, and none of them empty")
        written = [self._written(prompt) for prompt in prompts]
        continuations = [[self._continued(text, answer) for answer in answers] for _, text in written]
        if all(len(ids) == 1 for each in continuations for ids in each):
            tokens = [np.concatenate(each) for each in continuations]
            found = self.decoder.next_log_likelihoods([ids for ids, _ in written], tokens)
            sums = np.array(found, dtype=np.float64).reshape(len(prompts), len(answers))
        else:
            beginnings = [ids for ids, _ in written for _ in answers]
            found = self.decoder.log_likelihoods(beginnings, [ids for each in continuations for ids in each])
            sums = np.array([values.sum() for values in found], dtype=np.float64).reshape(len(prompts), len(answers))
        odds = np.exp(sums - sums.max(axis=1, keepdims=True))
        shares: list[list[float]] = (odds / odds.sum(axis=1, keepdims=True)).tolist()
        return shares

    async def aanswer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """`answer_probabilities` in a thread."""
        return await asyncio.to_thread(self.answer_probabilities, prompts, answers)

    def _written(self, prompt: Prompt) -> tuple[Ids, str]:
        """The tokens before the answer, and the end of the text that they stand for."""
        loaded = self.decoder.loaded
        asked = prompt.prefix + prompt.text
        chat: Any = loaded.chat
        if chat.chat_template:
            messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
            messages.append({"role": "user", "content": asked})
            # a model that reasons before it answers would have its answer elsewhere
            text = chat.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, enable_thinking=False)
            ids = np.array(chat(text, add_special_tokens=False)["input_ids"], dtype=np.int64)
        else:
            text = "\n".join(filter(None, (prompt.system, asked, "Answer:")))
            ids = np.concatenate([loaded.tokenizer.leading, loaded.tokenizer.tokenize([text])[0].ids])
        if len(ids) > loaded.max_tokens:
            raise PromptRefusedError(
                f"a prompt of {len(ids)} tokens is longer than the {loaded.max_tokens} that {self.decoder.model!r} "
                "reads: show less of the passage (max_chars=...)"
            )
        return ids, text[-64:]

    def _continued(self, text: str, answer: str) -> Ids:
        """The tokens of an answer behind a text: after most chat templates its own, else those of a further word."""
        tokenizer = self.decoder.loaded.tokenizer
        behind = answer if text.endswith(("\n", " ")) or self.decoder.loaded.chat.chat_template else f" {answer}"
        before, whole = (tokens.ids for tokens in tokenizer.tokenize([text, text + behind]))
        if len(whole) > len(before) and np.array_equal(whole[: len(before)], before):
            return whole[len(before) :]
        return tokenizer.tokenize([behind])[0].ids
