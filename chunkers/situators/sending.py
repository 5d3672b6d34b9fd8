"""Prompts on their way to a language model: batches, retries, rate, and a count of what was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tenacity import AsyncRetrying, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from situate.batches import in_batches
from situate.chunkers.situators.report import CHARACTERS_PER_TOKEN, SituatingReport
from situate.errors import InputError, PromptRefusedError
from situate.prompting import aask, ask
from situate.types import Prompt, TextGenerator


class PromptSender:
    """Sends prompts with retries, and counts them. Safe for threads.

    Args:
        generator: The language model.
        per_minute: Prompts per minute, at most; None for no limit.
        attempts: How often a prompt is sent before it has failed.
        backoff: Seconds before the second attempt, at most; the limit doubles each time.
    """

    def __init__(self, generator: TextGenerator, per_minute: float | None, attempts: int, backoff: float) -> None:
        self.report = SituatingReport()
        self._generator = generator
        self._per_minute = per_minute
        self._retrying: dict[str, Any] = {
            "stop": stop_after_attempt(attempts),
            "wait": wait_random_exponential(multiplier=backoff, max=60.0),
            "retry": retry_if_exception(_may_pass),
            "reraise": True,
        }
        self._last_lead = ""
        self._free_at = 0.0
        self._lock = threading.Lock()

    def send(self, prompts: Sequence[Prompt]) -> list[str] | Exception:
        """An answer per prompt, or the error of the last attempt."""
        try:
            return self._answered(Retrying(**self._retrying)(self._ask, prompts))
        except Exception as error:  # noqa: BLE001 - a language model's client may raise anything
            return error

    async def asend(self, prompts: Sequence[Prompt]) -> list[str] | Exception:
        """`send` without blocking the event loop; cancelling it cancels the requests."""
        try:
            return self._answered(await AsyncRetrying(**self._retrying)(self._aask, prompts))
        except Exception as error:  # noqa: BLE001 - as in send; CancelledError is no Exception and passes
            return error

    def pause(self, prompts: int) -> float:
        """Seconds to wait before ``prompts`` more are sent, so that no minute sees more than allowed."""
        if self._per_minute is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + prompts * 60.0 / self._per_minute
            return start - now

    def count(self, **counts: int) -> None:
        """Add to the report."""
        with self._lock:
            self.report += SituatingReport(**counts)

    def _ask(self, prompts: Sequence[Prompt]) -> list[str]:
        self._count_sent(prompts)
        return ask(self._generator, prompts)

    async def _aask(self, prompts: Sequence[Prompt]) -> list[str]:
        self._count_sent(prompts)
        return await aask(self._generator, prompts)

    def _answered(self, answers: list[str]) -> list[str]:
        self.count(answer_tokens=sum(map(len, answers)) // CHARACTERS_PER_TOKEN)
        return answers

    def _count_sent(self, prompts: Sequence[Prompt]) -> None:
        characters = shared = 0
        for prompt in prompts:
            lead = prompt.system + prompt.prefix
            characters += len(lead) + len(prompt.text)
            shared += len(lead) if lead == self._last_lead else 0
            self._last_lead = lead
        self.count(
            calls=len(prompts),
            prompt_tokens=characters // CHARACTERS_PER_TOKEN,
            shared_tokens=shared // CHARACTERS_PER_TOKEN,
        )


def batches(prompts: Mapping[str, Prompt], size: int) -> Iterable[list[str]]:
    """Keys of prompts with the same prefix, together: the first of them alone, the others by ``size``.

    The first prompt fills the provider's prompt cache, in which the others then find their prefix.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for key, prompt in prompts.items():
        groups.setdefault((prompt.system, prompt.prefix), []).append(key)
    for keys in groups.values():
        yield keys[:1]
        yield from in_batches(keys[1:], size)


def _may_pass(error: BaseException) -> bool:
    # A further attempt does not make an unusable input usable.
    return isinstance(error, Exception) and not isinstance(error, InputError | PromptRefusedError)
