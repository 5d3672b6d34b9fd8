"""What situating by a language model cost."""

from __future__ import annotations

from dataclasses import dataclass

#: Characters per token, for the estimate. English prose has 4 to 5; a tokenizer would cost more than its precision is
#: worth.
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class SituatingReport:
    """What a situator has done since it was made.

    Attributes:
        calls: Prompts sent to the language model, repeated ones included.
        cached: Answers taken from the cache.
        failed: Chunks that were left without an answer.
        prompt_tokens: Tokens sent, estimated at four characters each.
        shared_tokens: Those of them in a prefix that the previous prompt had too, for which a provider's prompt cache
            may charge less.
        answer_tokens: Tokens received, estimated likewise.
    """

    calls: int = 0
    cached: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    shared_tokens: int = 0
    answer_tokens: int = 0

    def __add__(self, other: SituatingReport) -> SituatingReport:
        return SituatingReport(
            self.calls + other.calls,
            self.cached + other.cached,
            self.failed + other.failed,
            self.prompt_tokens + other.prompt_tokens,
            self.shared_tokens + other.shared_tokens,
            self.answer_tokens + other.answer_tokens,
        )

    def cost(self, per_million: float, per_million_shared: float, per_million_answered: float) -> float:
        """The estimated cost at prices per million tokens: fresh prompt, shared prompt, answer."""
        fresh = self.prompt_tokens - self.shared_tokens
        parts = (
            fresh * per_million,
            self.shared_tokens * per_million_shared,
            self.answer_tokens * per_million_answered,
        )
        return sum(parts) / 1e6
