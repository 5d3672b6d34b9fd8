"""`SituateCache`: a language model's answers by the meaning of the question, as LangChain's cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.messages import message_to_dict, messages_from_dict
from langchain_core.outputs import ChatGeneration, Generation

from situate.errors import InputError
from situate.integrations._shared.caching import semantic_cache
from situate.integrations._shared.origin import digest
from situate.integrations._shared.settings import ClientOrOpener
from situate.integrations.langchain.embeddings import SituateEmbeddings
from situate.outside import load_json
from situate.retrievers.cache import SemanticCache
from situate.retrievers.cache_codecs import Codec, same_text


class SituateCache(BaseCache):
    """A language model's answers, used again for questions that mean the same (``set_llm_cache(SituateCache(...))``).

    Each entry learns how near a question must be, so that at most a share of ``max_error`` of the hits is wrong; see
    `situate.retrievers.cache.SemanticCache`. Of a chat's messages the last one, the user's, is compared by meaning; the
    model, its settings, the system message and the turns before must be the same. A prompt that is longer than
    ``longest`` (a question with passages in front of it, say) is only found by the same words, because an embedding
    model would not read all of it. An answer that holds more than text and tool calls, such as audio, is not stored.

    Args:
        embeddings: Embed the questions.
        client: A Qdrant client, or a function that opens one; None: opened by ``options``, in memory by default.
        same: Whether two answers mean the same; None: they differ in white space and case only. A model that samples
            needs another one (`situate.retrievers.cache_codecs.alike`).
        longest: Characters of the longest question that is compared by meaning.
        options: The fields of `StoreOptions` (``path``, ``collection_name``, ...), and of `SemanticCache`
            ``max_error``, ``ttl``, ``nearest``, ``policy``, ``seed``.

    Attributes:
        semantic: The cache underneath, with ``invalidate``, ``purge`` and ``count``.

    Raises:
        UnknownArgumentError: There is no such option.
        InputError: An argument is outside its range.
    """

    def __init__(
        self,
        embeddings: SituateEmbeddings,
        *,
        client: ClientOrOpener = None,
        same: Callable[[str, str], bool] | None = None,
        longest: int = 1_000,
        **options: Any,
    ) -> None:
        if longest < 0:
            raise InputError(f"longest={longest} characters must be 0 or more")
        self.longest = longest
        codec = Codec(_encode, _decode, _Same(same_text if same is None else same))
        self.semantic: SemanticCache[Any] = semantic_cache(
            embeddings.embedder, codec, client, options, type(self).__name__
        )

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """The answers of a prompt that means the same; None where there are none.

        Args:
            prompt: The prompt, or a chat's messages as LangChain writes them.
            llm_string: The model and its settings.
        """
        question, tenant = self._read(prompt, llm_string)
        found = self.semantic.lookup(question, tenant=tenant)
        return None if found is None else found.value

    async def alookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """`lookup` without blocking the event loop."""
        question, tenant = self._read(prompt, llm_string)
        found = await self.semantic.alookup(question, tenant=tenant)
        return None if found is None else found.value

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Store answers; a cache that fails is logged, and the answers are not stored.

        Args:
            prompt: As in `lookup`.
            llm_string: As in `lookup`.
            return_val: The answers.
        """
        question, tenant = self._read(prompt, llm_string)
        self.semantic.store(question, list(return_val), tenant=tenant)

    async def aupdate(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """`update` without blocking the event loop."""
        question, tenant = self._read(prompt, llm_string)
        await self.semantic.astore(question, list(return_val), tenant=tenant)

    def clear(self, **kwargs: Any) -> None:
        """Forget all answers.

        Args:
            kwargs: None.
        """
        if kwargs:
            raise InputError(f"clear() takes no arguments, and was given {', '.join(sorted(kwargs))}")
        self.semantic.clear()

    def _read(self, prompt: str, llm_string: str) -> tuple[str, str]:
        """The question that is compared by meaning, and a digest of all that must be the same."""
        question, rest = _parts(prompt)
        if len(question) > self.longest:
            question, rest = prompt, prompt
        if len(question) > self.longest:
            question = digest(question)  # found by its words, whatever its length
        return question, digest(f"{llm_string}\0{rest}")


class _Same:
    """Whether two lists of answers mean the same: pickles where the comparison of texts does."""

    def __init__(self, texts: Callable[[str, str], bool]) -> None:
        if not callable(texts):
            raise InputError(f"same={texts!r:.40} cannot be called: give a function of two texts, or None")
        self.texts = texts

    def __call__(self, a: Sequence[Generation], b: Sequence[Generation]) -> bool:
        return len(a) == len(b) and all(
            _tool_calls(x) == _tool_calls(y) and self.texts(x.text, y.text) for x, y in zip(a, b, strict=True)
        )


def _parts(prompt: str) -> tuple[str, str]:
    """A prompt's question and the rest: of a chat the last message's text, and all else."""
    try:
        messages = load_json(prompt, "a prompt") if prompt.startswith("[") else None
        *before, last = messages if isinstance(messages, list) else (None,)
        if isinstance(last, dict) and last["id"][-1] == "HumanMessage" and isinstance(last["kwargs"]["content"], str):
            others = {key: value for key, value in last["kwargs"].items() if key not in ("content", "id")}
            return last["kwargs"]["content"], json.dumps([before, others], sort_keys=True)
    except (ValueError, LookupError, TypeError):
        pass  # text that looks like JSON is a prompt like any other
    return prompt, ""


def _tool_calls(generation: Generation) -> Any:
    message = getattr(generation, "message", None)
    calls = getattr(message, "tool_calls", None) or []
    return [(call["name"], call["args"]) for call in calls]


def _encode(generations: Sequence[Generation]) -> Any:
    kept: list[Any] = []
    for generation in generations:
        if type(generation) is ChatGeneration:
            kept.append({"message": message_to_dict(generation.message), "info": generation.generation_info})
        elif type(generation) is Generation:
            kept.append({"text": generation.text, "info": generation.generation_info})
        else:
            raise InputError(f"a {type(generation).__name__} is not cached: only Generation and ChatGeneration are")
    return json.dumps(kept)  # what is no JSON value raises here, and is not stored


def _decode(value: Any) -> list[Generation]:
    found: list[Generation] = []
    for each in load_json(value, "a cached answer"):
        if "message" in each:
            [message] = messages_from_dict([each["message"]])
            found.append(ChatGeneration(message=message, generation_info=each["info"]))
        else:
            found.append(Generation(text=each["text"], generation_info=each["info"]))
    return found
