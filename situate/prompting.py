"""Texts inside prompts, and answers out of them.

A query or a passage can hold anything, instructions and a model's own control tokens included. An answer can be empty,
endless, a refusal, led by the model's reasoning, or no text at all. Everything here bounds what such a text can do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
_REASON = (
    r"(?:seed:)?(?:(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|analysis)"
    r"(?:_(?:process|content|steps?))?|chain[_-]of[_-]thoughts?|inner[_-]monologue)"
)
#: Where reasoning begins and ends: XML-like tags, Mistral's and Kimi's brackets, control tokens, and the channels of
#: OpenAI's harmony format, of which "final" alone is the answer.
_REASONING = re.compile(
    rf"""
      (?P<end>
          <\s{{0,3}}/\s{{0,3}}{_REASON}\s{{0,3}}> | \[/{_REASON}\] | \u25c1/{_REASON}\u25b7
        | <\|(?:/|end_(?:of_)?){_REASON}\|> | <\|channel\|>\s{{0,3}}final\b\s{{0,3}}(?:<\|message\|>)?
      )
    | (?P<begin>
          <\s{{0,3}}{_REASON}(?:\s[^<>/]{{0,100}})?> | \[{_REASON}\] | \u25c1{_REASON}\u25b7
        | <\|(?:begin_of_|start_)?{_REASON}\|> | <\|channel\|>
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: The characters that `_REASONING` begins with.
_OPENS = re.compile("[<[\u25c1]")
#: Harmony's channels as a server writes them that leaves control tokens out.
_BARE_CHANNELS = re.compile(r"\Aanalysis.*assistantfinal", re.DOTALL)
_CONTROL = re.compile(r"<[|\uff5c][\w\u2581/]{1,40}[|\uff5c]>")
#: What a model may take for the end of a quotation or of a turn: closing tags, control tokens, [INST] and <<SYS>>.
_TURN = re.compile(
    r"<(?=\s*(?:[/|\uff5c]|</?sys\b|(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn)\s*>))"
    r"|\[(?=\s{0,3}/?\s{0,3}(?:inst|sys|system_prompt|think|tool_calls|tool_results|available_tools)\s{0,3}\])",
    re.IGNORECASE,
)
_EMPTY_REASONING = re.compile(rf"<\s{{0,3}}{_REASON}\s{{0,3}}/>", re.IGNORECASE)
#: The answer's own tag, which some models write behind their reasoning.
_ANSWER = re.compile(r"\A<(answer|final_answer|response|output)>\s*(.*?)\s*(?:</\1>)?\Z", re.DOTALL | re.IGNORECASE)
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
    """``text`` clamped and on one line, without control tokens: it cannot pass for a further line of its prompt."""
    return " ".join(_CONTROL.sub(" ", clamp(text, limit)).split())


def quoted(text: str, tag: str, limit: int, *others: str) -> str:
    """``text`` clamped between ``<tag>`` and ``</tag>``.

    Inside, whatever could end the quotation or the turn is written with ``&lt;`` or ``&#91;``: closing tags, opening
    tags of these names, and models' control tokens (``<|im_end|>``, ``[/INST]``). Takes time linear in the text.

    Args:
        text: What is quoted.
        tag: The tag around it.
        limit: Characters that are kept of it.
        others: Further tags of the same prompt.
    """
    names = "|".join(map(re.escape, (tag, *others)))
    inner = _TURN.sub(lambda match: "&lt;" if match.group() == "<" else "&#91;", clamp(text, limit))
    inner = re.sub(rf"<(?=\s*(?:{names})\b)", "&lt;", inner, flags=re.IGNORECASE)
    return f"<{tag}>\n{inner}\n</{tag}>"


def without_reasoning(answer: str) -> str:
    """The answer without the reasoning that the model wrote before or inside of it.

    Left out are blocks between tags (``<think>``, ``<reasoning>``, ``<thought>``, ``[THINK]`` and the like), whatever
    stands before a closing tag that nothing opened, whatever follows an opening tag that nothing closes, and all
    channels but the final one (``<|channel|>analysis<|message|>``). Takes time linear in the answer.

    >>> without_reasoning("The user wants one sentence.</think> From the sick leave rule.")
    ' From the sick leave rule.'
    """
    answer = _EMPTY_REASONING.sub("", _BARE_CHANNELS.sub("", answer))
    kept: list[str] = []
    at = 0
    reasoning = False
    for mark in _reasoning_marks(answer):
        if mark["begin"]:
            if not reasoning:
                kept.append(answer[at : mark.start()])
        else:
            if not reasoning or "channel" in mark["end"]:
                kept.clear()
            at = mark.end()
        reasoning = bool(mark["begin"])
    if not reasoning:
        kept.append(answer[at:])
    return _CONTROL.sub("", "".join(kept))


def _reasoning_marks(answer: str) -> Iterator[re.Match[str]]:
    """The matches of `_REASONING`, tried only at its first characters: an answer may have megabytes without any."""
    at = 0
    while first := _OPENS.search(answer, at):
        mark = _REASONING.match(answer, first.start())
        at = first.end() if mark is None else mark.end()
        if mark is not None:
            yield mark


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
    """Answers without reasoning and code fences, at most ``limit`` characters each, empty ones left out."""
    texts: list[str] = []
    empty = refused = clamped = 0
    for answer in answers:
        whole = without_reasoning(answer)
        # bounded before anything else is searched in it: an answer may have megabytes
        text = whole[: max(ANSWER_LIMIT, 2 * limit)].strip()
        if tagged := _ANSWER.match(text):
            text = tagged.group(2)
        fence = _FENCE.match(text)
        if fence:
            text = fence.group(1).strip()
        clamped += len(text) > limit or len(whole) > max(ANSWER_LIMIT, 2 * limit)
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
            # a line that ends in a colon announces the list and is not an item of it
            if any(c.isalnum() for c in line) and not line.endswith(":") and not usable([line], limit).refused:
                found.setdefault(line.casefold(), clamp(line, limit))
    return list(found.values())[:at_most]


def checked_generator(generator: object) -> TextGenerator:
    """``generator``, checked to be a `TextGenerator`.

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
    """One answer per prompt, all requested in one call.

    Raises:
        GenerationError: The model failed, or did not answer one text per prompt.
    """
    return _checked(prompts, generator.generate(prompts))


async def aask(generator: TextGenerator, prompts: Sequence[Prompt]) -> list[str]:
    """`ask` without blocking the event loop."""
    return _checked(prompts, await generator.agenerate(prompts))


def generation_error(message: str, cause: Exception) -> GenerationError:
    """The error that a `TextGenerator` raises for its client's error, with the HTTP status if any."""
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
