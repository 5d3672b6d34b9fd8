"""Texts inside prompts, and answers out of them: both are data that somebody else wrote.

A query or a passage can hold anything, instructions included, and an answer can be empty, endless, a refusal or no
text at all. Everything here bounds what such a text can do.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from situate.errors import GenerationError, InputError, PromptRefusedError
from situate.types import Prompt, TextGenerator

#: Characters of a query that a prompt quotes, of a passage, and of an answer that anything is read from.
QUERY_LIMIT = 2_000
PASSAGE_LIMIT = 4_000
ANSWER_LIMIT = 20_000

#: HTTP statuses by which a server refuses what it was sent: bad, too large, not to be processed.
_REFUSES = {400, 413, 422}

_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"\A```[^\n]*\n(.*?)\n?```\s*\Z", re.DOTALL)
_REFUSAL = re.compile(
    r"\A\W*(?:i'?m (?:so )?sorry|i am (?:so )?sorry|sorry,|my apologies|i apologi[sz]e"
    r"|(?:unfortunately,? )?i (?:can ?not|can'?t|won'?t|will not|am (?:unable|not able)|do not have|don'?t have)\b"
    r"|i'?m (?:unable|not able)|as an? (?:ai|artificial intelligence|(?:large )?language model)\b)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"\A\s*(?:[-*\u2022]+|\(?\d{1,3}[.):]|query\s*\d*\s*:)\s*", re.IGNORECASE)


def clamp(text: str, limit: int) -> str:
    """At most ``limit`` characters of ``text``, cut at white space where there is some near the end.

    Control characters and lone surrogates, which servers refuse, are left out.
    """
    if len(text) > limit:
        cut = text[:limit]
        space = max(cut.rfind(" "), cut.rfind("\n"))
        text = cut[:space] if space > limit * 0.8 else cut
    return _UNWANTED.sub("", text)


def one_line(text: str, limit: int) -> str:
    """``text`` clamped and on one line: it cannot pass for a further line of the prompt that quotes it."""
    return " ".join(clamp(text, limit).split())


def quoted(text: str, tag: str, limit: int, *others: str) -> str:
    """``text`` clamped between ``<tag>`` and ``</tag>``; such tags, and ``others``, are made harmless inside of it."""
    names = "|".join(map(re.escape, (tag, *others)))
    inner = re.sub(rf"<(?=\s*/?\s*(?:{names})\b)", "&lt;", clamp(text, limit), flags=re.IGNORECASE)
    return f"<{tag}>\n{inner}\n</{tag}>"


def filled(template: str, **values: str) -> str:
    """``template`` with ``{name}`` replaced; other braces, and braces inside of the values, are left alone."""
    return re.sub(r"\{(" + "|".join(map(re.escape, values)) + r")\}", lambda match: values[match.group(1)], template)


@dataclass(frozen=True)
class Usable:
    """The answers that can be used, and how many could not.

    Attributes:
        texts: Cleaned answers, in order.
        empty: Answers without a letter or digit.
        refused: Answers that decline to answer (English phrases; a refusal in another language is not recognised).
        clamped: Answers that were longer than the limit.
    """

    texts: tuple[str, ...]
    empty: int = 0
    refused: int = 0
    clamped: int = 0


def usable(answers: Sequence[str], limit: int) -> Usable:
    """Answers without reasoning blocks and code fences, at most ``limit`` characters each, empty ones left out."""
    texts: list[str] = []
    empty = refused = clamped = 0
    for answer in answers:
        # bounded before anything is searched in it: an answer may have megabytes
        bounded = answer[: max(ANSWER_LIMIT, 2 * limit)]
        text = _THINKING.sub("", bounded).strip()
        fence = _FENCE.match(text)
        if fence:
            text = fence.group(1).strip()
        clamped += len(text) > limit or len(bounded) < len(answer)
        text = clamp(text, limit).strip()
        if not any(character.isalnum() for character in text):
            empty += 1
        elif _REFUSAL.match(text.replace("\u2019", "'")):
            refused += 1
        else:
            texts.append(text)
    return Usable(tuple(texts), empty, refused, clamped)


def lines(answer: str, at_most: int, limit: int) -> list[str]:
    """The lines of an answer as separate texts: without numbers, bullets and quotes, each once, in order."""
    found: dict[str, str] = {}
    for text in usable([answer], ANSWER_LIMIT).texts:
        for line in text.splitlines():
            line = _BULLET.sub("", line).strip().strip("\"'`\u201c\u201d").strip()
            # a line that ends in a colon announces the list and is none of it
            if any(c.isalnum() for c in line) and not line.endswith(":") and not usable([line], limit).refused:
                found.setdefault(line.casefold(), clamp(line, limit))
    return list(found.values())[:at_most]


def checked_generator(generator: TextGenerator) -> TextGenerator:
    """``generator``, where it is one.

    Raises:
        InputError: It is something else: a model's name, a framework's model.
    """
    if isinstance(generator, TextGenerator):
        return generator
    raise InputError(
        f"a {type(generator).__name__} is no TextGenerator: it needs generate(prompts) and agenerate(prompts), as "
        "LlamaIndexGenerator(llm) and LangChainGenerator(model) of situate.integrations have"
    )


def ask(generator: TextGenerator, prompts: Sequence[Prompt]) -> list[str]:
    """One answer per prompt, all asked for in one call.

    Raises:
        GenerationError: The model failed, or what came back is not one text per prompt.
    """
    return _checked(prompts, generator.generate(prompts))


async def aask(generator: TextGenerator, prompts: Sequence[Prompt]) -> list[str]:
    """`ask` without blocking the event loop."""
    return _checked(prompts, await generator.agenerate(prompts))


def generation_error(message: str, cause: Exception) -> GenerationError:
    """What a `TextGenerator` raises for what its client raised: the clients of HTTP services tell the status."""
    answer = getattr(cause, "response", None)
    status = getattr(cause, "status_code", None) or getattr(answer, "status_code", None)
    if status not in _REFUSES:
        return GenerationError(message)
    return PromptRefusedError(
        f"{message}; status {status}: the prompt itself was refused. If it is longer than the model's context, show "
        "less of the document (window=...)"
    )


def _checked(prompts: Sequence[Prompt], answers: Sequence[object]) -> list[str]:
    texts = [answer for answer in answers if isinstance(answer, str)] if isinstance(answers, list | tuple) else []
    if len(texts) != len(prompts) or len(texts) != len(answers):
        raise GenerationError(
            f"{len(prompts)} prompt(s) went to the language model and {len(texts)} text(s) came back: "
            "a TextGenerator returns one string per prompt, in order"
        )
    return texts
