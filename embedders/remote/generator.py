"""OpenAIGenerator: a language model on any server with OpenAI's interface, answering whole or in pieces."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Unpack

from situate.embedders.remote.encoder import checked_options
from situate.embedders.remote.http import Call, HttpConnection, HttpOptions, HttpSettings, Refusal, RefusalError
from situate.embedders.remote.openai import OPENAI_URL, openai_settings
from situate.embedders.remote.own_loop import run_on_own_loop
from situate.errors import GenerationError, PromptRefusedError, ServerError
from situate.outside import load_json, safe_text
from situate.types import Prompt

#: Statuses by which a server refuses a prompt itself, so that another try would not help.
_REFUSED = frozenset({400, 413, 422})
#: Tokens whose log-probabilities are asked for: the most that OpenAI returns.
_LIKELIEST = 20
#: Bytes of an answer: of the JSON around its pieces, most of all.
_ANSWER_BYTES = 16 * 2**20


@checked_options
class OpenAIGenerator:
    """A `StreamingGenerator` over ``POST {base_url}/chat/completions`` (OpenAI, vLLM, llama.cpp, Ollama, LM Studio).

    Cheap to construct: no request is made before the first prompt. Copies and pickles as its configuration. May be used
    by many threads and event loops at once, and after a fork.

    Args:
        model: The model's name on the server.
        base_url: The address up to and including ``/v1``, or an `HttpSettings` with the other settings too. Without a
            key and the name of its variable, ``OPENAI_API_KEY`` is sent to OpenAI's own address and to no other.
        temperature: None: the server's own.
        max_tokens: Tokens of an answer, at most; None: the server's own.
        request: Further fields of each request (``{"reasoning_effort": "low"}``).
        options: Further fields of `HttpSettings`: ``api_key``, ``timeout``, ``concurrency``, ... For a stream,
            ``timeout`` bounds the wait for its beginning and for each piece.

    Raises:
        InputError: `HttpSettings` refuses its values.
    """

    def __init__(
        self,
        model: str,
        base_url: str | HttpSettings = OPENAI_URL,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        request: Mapping[str, Any] | None = None,
        **options: Unpack[HttpOptions],
    ) -> None:
        self.model = model
        self.http = openai_settings(base_url, options)
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.request = dict(request or {})
        self._connection = HttpConnection(self.http)

    def __repr__(self) -> str:
        return f"OpenAIGenerator({self.model!r}, {self.http.shown_url!r})"

    def configuration(self) -> dict[str, Any]:
        """The model and its settings without keys, as JSON values, for the key of a cache of its answers."""
        return {"llm": self.http.shown_url, **self._fields()}

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer per prompt, in order.

        Raises:
            GenerationError: The server refused, timed out, went away or answered nothing that can be read.
        """
        return run_on_own_loop(lambda: self.agenerate(prompts)) if prompts else []

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        """`generate` without blocking the event loop; cancelling it cancels the requests."""
        try:
            answers = await self._connection.aask([self._call(prompt) for prompt in prompts])
        except ServerError as error:
            raise self._failed(error) from error
        return [self._text(answer) for answer in answers]

    def answer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """Per prompt the probability of each answer among them, by the log-probabilities of the answer's first token.

        All are 0 where none of the answers is among the likeliest tokens. For servers that return log-probabilities,
        and models that answer without reasoning first.

        Raises:
            GenerationError: As in `generate`, or the server returns no log-probabilities.
        """
        return run_on_own_loop(lambda: self.aanswer_probabilities(prompts, answers)) if prompts else []

    async def aanswer_probabilities(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[list[float]]:
        """`answer_probabilities` without blocking the event loop; cancelling it cancels the requests."""
        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": _LIKELIEST}
        try:
            said = await self._connection.aask([self._call(prompt, **more) for prompt in prompts])
        except ServerError as error:
            raise self._failed(error) from error
        return [self._shares(answer, answers) for answer in said]

    def stream(self, prompt: Prompt) -> Generator[str]:
        """The answer in pieces, none of them empty; closing the iterator ends the request.

        Raises:
            GenerationError: As in `generate`, at the start or in the middle of the answer.
        """
        pieces = self.astream(prompt)

        async def following() -> str | None:
            return await anext(pieces, None)

        try:
            while (piece := run_on_own_loop(following)) is not None:
                yield piece
        finally:
            run_on_own_loop(pieces.aclose)

    async def astream(self, prompt: Prompt) -> AsyncGenerator[str]:
        """`stream` without blocking the event loop."""
        try:
            async with aclosing(self._connection.aevents(self._call(prompt, stream=True))) as events:
                async for event in events:
                    if event == b"[DONE]":
                        return
                    if piece := self._text(load_json(event, "an event of the answer", ServerError), streamed=True):
                        yield piece
        except RefusalError as refused:
            raise self._refused(refused.refusal) from None
        except ServerError as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Close the connections of synchronous calls; the next call opens them again."""
        self._connection.close()

    async def aclose(self) -> None:
        """Close this event loop's connections."""
        await self._connection.aclose()

    def _fields(self) -> dict[str, Any]:
        chosen = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {"model": self.model, **{k: v for k, v in chosen.items() if v is not None}, **self.request}

    def _shares(self, answer: Any, answers: Sequence[str]) -> list[float]:
        if isinstance(answer, Refusal):
            raise self._refused(answer)
        try:
            tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            found = [(str(each["token"]).strip(), math.exp(min(float(each["logprob"]), 0.0))) for each in tokens]
        except (LookupError, TypeError, ValueError) as error:
            raise GenerationError(
                f"what {self.http.shown_url} answered holds no log-probabilities (choices[0].logprobs.content): the "
                f"server or the model {self.model!r} does not give any; leave soft=True out"
            ) from error
        shares = [sum(share for token, share in found if token == wanted) for wanted in answers]
        total = sum(shares)
        return [share / total if total > 0 else 0.0 for share in shares]

    def _call(self, prompt: Prompt, **more: Any) -> Call:
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        messages.append({"role": "user", "content": prompt.prefix + prompt.text})
        body = {**self._fields(), "messages": messages, **more}
        return Call("chat/completions", body, _REFUSED, _ANSWER_BYTES)

    def _text(self, answer: Any, *, streamed: bool = False) -> str:
        """The text of an answer, or of one piece of it; a piece may have none (a role, the count of tokens)."""
        if isinstance(answer, Refusal):
            raise self._refused(answer)
        try:
            if streamed and answer.get("error"):
                told = safe_text(json.dumps(answer["error"]))
                raise GenerationError(f"the language model {self.model!r} broke its answer off: {told}")
            choices = answer["choices"] if not streamed else answer.get("choices") or [{}]
            message = choices[0].get("delta") or choices[0].get("message") or {}
            content = message.get("content") or ""
        except (LookupError, TypeError, AttributeError) as error:
            raise GenerationError(
                f"what {self.http.shown_url} answered has no choices[0].message.content: is it an address with "
                "OpenAI's interface (usually it ends in /v1)?"
            ) from error
        if not isinstance(content, str):
            raise GenerationError(f"what {self.http.shown_url} answered holds no text but a {type(content).__name__}")
        return content

    def _refused(self, refusal: Refusal) -> GenerationError:
        return PromptRefusedError(
            f"{self.http.shown_url} refused the prompt (status {refusal.status}): {refusal.text or 'nothing'}. If it "
            f"is longer than the context of {self.model!r}, show less; else look at the model's name and settings"
        )

    def _failed(self, error: ServerError) -> GenerationError:
        return GenerationError(f"the language model {self.model!r} failed: {error}")
