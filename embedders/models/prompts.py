"""PromptFamily: prompts by which a language model that was never trained for embeddings is asked for a vector."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from situate.embedders.models.families import Family
from situate.embedders.models.prepending import Prepend
from situate.embedders.types import Span, SpanText
from situate.errors import ConventionError, InputError
from situate.parameters import checked_parameters, unknown_parameters

_MASKS = re.compile(r"(?:\{mask\})+")
_ANSWER_LATE = (
    "a prompt asks for the vector of the whole text, which is that of one token behind it; the text's own tokens were "
    "not asked for anything"
)


@checked_parameters
@dataclass(frozen=True)
class PromptFamily:
    """How a language model is asked for the vector of a text: templates, and the tokens that are pooled.

    A template says by its places which tokens make the vector:

    - ``{text}`` once: the last token of the prompt, whose next word would be the answer (PromptEOL); nothing follows.
    - ``{text}`` and ``{mask}`` behind it: the model's mask token, or the mean of several side by side (PromptBERT).
    - ``{text}`` twice: the mean of the second copy (echo embeddings), whose tokens have seen all of the first.

    ``{task}`` is replaced by the task. Several templates are several passes, whose vectors are averaged (MetaEOL).
    Texts are read as they are; the papers' evaluations close them with a full stop.

    Attributes:
        templates: For documents, and for queries that have none of their own.
        query_templates: For queries; () for the same.
        task: The words for ``{task}``, in documents and in queries. ``Embedder(task=...)`` rules for queries.
        prepend: Token prepending (Fu et al. 2024, https://arxiv.org/abs/2412.11556): the first and the last layer,
            counted from 1, behind which the state of the prompt's last token is put at ``{place}``, so that the text's
            words see it. The place is a special token of the model's. None: no prepending.
        name: What the prompts are called.
        source: The paper.

    Raises:
        InputError: A template has no ``{text}``, a mask before it, or places that do not go together.
    """

    templates: tuple[str, ...]
    query_templates: tuple[str, ...] = ()
    task: str = ""
    prepend: tuple[int, int] | None = None
    name: str = "prompts"
    source: str = ""

    def __post_init__(self) -> None:
        if self.prepend is not None:
            object.__setattr__(self, "prepend", _layers(self.prepend))
        for field in ("templates", "query_templates"):
            value = getattr(self, field)
            if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
                raise InputError(f"{field} is {value!r}: give a list of texts")
            object.__setattr__(self, field, tuple(value))
        for field in ("task", "name", "source"):
            if not isinstance(value := getattr(self, field), str):
                raise InputError(f"{field} is {value!r}: give a text")
        if not self.templates:
            raise InputError("a PromptFamily needs at least one template")
        for side in (self.templates, self.query_templates):
            parsed = [_Template.of(template) for template in side]
            if len(parsed) > 1 and any(template.again is not None for template in parsed):
                raise InputError(f"{side!r}: a template with two copies of the text stands alone, others are averaged")
            if any((template.place is None) != (self.prepend is None) for template in parsed):
                raise InputError(f"{side!r}: prepend and a {{place}} before the text in every template go together")
        asked = [template for template in (*self.templates, *self.query_templates) if "{task}" in template]
        if asked and not self.task:
            raise InputError(f"the template {asked[0]!r} has a place for a task: give task=")

    @classmethod
    def of(cls, given: PromptFamily | str | Mapping[str, Any] | None) -> PromptFamily | None:
        """``given``, or the family that a name ("eol") or JSON values stand for.

        Args:
            given: A name; or ``{"templates": [...], ...}``, or ``{"name": "inbedder", "task": ...}``.

        Raises:
            InputError: There is no such name, or a value is none that a family takes.
        """
        if given is None or isinstance(given, PromptFamily):
            return given
        if not isinstance(given, str | Mapping):
            raise InputError(f"prompts={given!r} are no prompts: give a PromptFamily, its name, or its values")
        values: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
        if "templates" in values:
            return cls(**values)
        name = values.pop("name", None)
        if not isinstance(name, str) or name not in _NAMED:
            raise InputError(f"prompts={given!r} names none of {', '.join(_NAMED)}, and gives no templates")
        made = _NAMED[name]
        known = inspect.signature(made).parameters
        if unknown := values.keys() - known.keys():
            raise unknown_parameters(f"the prompts {name!r}", unknown, list(known))
        needed = {parameter.name for parameter in known.values() if parameter.default is parameter.empty}
        if missing := needed - values.keys():
            raise InputError(f'the prompts {name!r} need {min(missing)}: {{"name": "{name}", "{min(missing)}": ...}}')
        return made(**values)

    @classmethod
    def eol(cls, prepend: tuple[int, int] | None = None) -> PromptFamily:
        """PromptEOL: one word for the sentence (Jiang et al. 2023, https://arxiv.org/abs/2307.16645).

        Args:
            prepend: Token prepending behind these layers; (1, 7) in its paper for models of 7 billion weights.
        """
        return cls((_prepending(_EOL, prepend),), prepend=prepend, name="eol", source=_ARXIV + "2307.16645")

    @classmethod
    def metaeol(cls, prepend: tuple[int, int] | None = None) -> PromptFamily:
        """MetaEOL: eight tasks, eight passes, their mean (Lei et al. 2024, https://arxiv.org/abs/2402.18458).

        Args:
            prepend: As in `eol`.
        """
        tasks = tuple(_prepending(task, prepend) for task in _TASKS)
        return cls(tasks, prepend=prepend, name="metaeol", source=_ARXIV + "2402.18458")

    @classmethod
    def promptbert(cls) -> PromptFamily:
        """PromptBERT: a masked model's mask (Jiang et al. 2022, https://arxiv.org/abs/2201.04337)."""
        return cls(('This sentence : "{text}" means {mask}.',), name="promptbert", source=_ARXIV + "2201.04337")

    @classmethod
    def inbedder(cls, task: str) -> PromptFamily:
        """InBedder: the expected answer to a question (Peng et al. 2024, https://arxiv.org/abs/2402.09642).

        Args:
            task: The question; a query may have another one.
        """
        template = "### Input:\n{text}\n\n### Instruction:\n{task}\n\n### Response:"
        return cls((template,), task=task, name="inbedder", source=_ARXIV + "2402.09642")

    @classmethod
    def echo(cls) -> PromptFamily:
        """Echo embeddings: the second copy is pooled (Springer et al. 2024, https://arxiv.org/abs/2402.15449)."""
        template = "Rewrite the passage: {text}\nThe rewritten passage: {text}"
        return cls((template,), name="echo", source=_ARXIV + "2402.15449")

    @classmethod
    def promptreps(cls) -> PromptFamily:
        """PromptReps: one word that represents a passage or a query (Zhuang et al. 2024).

        Without the control tokens of a chat: write those of your model into templates of your own.
        """
        passage, query = (
            f'{kind.capitalize()}: "{{text}}". Use one word to represent the {kind} in a retrieval task. Make sure '
            'your word is in lowercase.\nThe word is "'
            for kind in ("passage", "query")
        )
        return cls((passage,), (query,), name="promptreps", source=_ARXIV + "2404.18424")

    @property
    def masked(self) -> bool:
        """Whether a template has a place for the model's mask token."""
        return any("{mask}" in template for template in (*self.templates, *self.query_templates))

    @property
    def echoes(self) -> bool:
        """Whether documents are read twice."""
        return _Template.of(self.templates[0]).again is not None

    def fingerprint(self) -> dict[str, Any]:
        """What decides a document's vector, as JSON values."""
        more = {} if self.prepend is None else {"prepend": list(self.prepend)}
        return {"templates": list(self.templates), "task": self.task, **more}

    def over(self, record: Family, mask: str, place: str, task: str | None) -> PromptedFamily:
        """The conventions of a model under these prompts.

        Args:
            record: Its own; lengths and what it needs to run still hold.
            mask: Its mask token; "" where no template has a place for it.
            place: The token for ``{place}``, likewise.
            task: The task of queries; None for that of the prompts.

        Raises:
            ConventionError: A task was given, and no template of a query has a place for one.
        """
        queries = self.query_templates or self.templates
        if task is not None and not any("{task}" in template for template in queries):
            raise ConventionError(
                f"task {task!r} was given, but the prompts {self.name!r} have no place for one: write {{task}} into "
                "their templates (PromptFamily(query_templates=...))"
            )
        own = {field.name: getattr(record, field.name) for field in dataclasses.fields(Family)}
        own |= {
            "name": self.name if record.name == "unknown" else f"{record.name} ({self.name})",
            "source": self.source or record.source,
            "query": "\n".join(_shown(template, mask, place) for template in queries),
            "document": "\n".join(_shown(template, mask, place, self.task) for template in self.templates),
            "task": self.task if task is None else task,
            "pooling": "mean",
            "late": "" if self.echoes else _ANSWER_LATE,
        }
        plain = {"pool_instruction": True, "normalize": True, "similarity": "cosine", "layer_norm": False}
        none: dict[str, Any] = dict.fromkeys(("query_suffix", "document_suffix"), "")
        return PromptedFamily(**own | plain | none | {"dimensions": ()}, prompts=self, mask=mask, place=place)


@checked_parameters
@dataclass(frozen=True)
class PromptedFamily(Family):
    """A model's conventions under a `PromptFamily`.

    Attributes:
        prompts: The prompts.
        mask: The model's mask token.
        place: The token for ``{place}``.
    """

    prompts: PromptFamily = dataclasses.field(default_factory=PromptFamily.eol)
    mask: str = ""
    place: str = ""

    @property
    def prepend(self) -> Prepend | None:
        """Token prepending, where the prompts ask for it."""
        return None if self.prompts.prepend is None else Prepend(self.place, *self.prompts.prepend)

    def query_text(self, text: str, task: str | None = None) -> SpanText:
        """The text in the queries' templates."""
        task = self.task if task is None else task
        return self._forms(self.prompts.query_templates or self.prompts.templates, text, task)

    def document_text(self, text: str, title: str | None = None) -> SpanText:
        """The text in the documents' templates."""
        return self._forms(self.prompts.templates, text, self.prompts.task)

    def spans_text(
        self,
        text: str,
        spans: Iterable[Span],
        *,
        lead: str = "",
        title: str | None = None,
        window: int | None = None,
        overlap: int = 64,
    ) -> SpanText:
        """The text in the first template, of which its own tokens are pooled: those of the second copy where it echoes.

        The lead stands before the first copy alone, and leads every window.
        """
        written = self._form(self.prompts.templates[0], lead + text, self.prompts.task)
        prefix = written.prefix + len(lead)
        return replace(
            written,
            spans=tuple((start + prefix, end + prefix) for start, end in spans),
            prefix=prefix,
            window=window,
            overlap=overlap,
        )

    @property
    def of_one_token(self) -> bool:
        """Whether one token stands for all that is read."""
        return not self.prompts.echoes

    def _forms(self, templates: Iterable[str], text: str, task: str) -> SpanText:
        first, *others = (self._form(template, text, task) for template in templates)
        return replace(first, also=tuple(others)) if others else first

    def _form(self, template: str, text: str, task: str) -> SpanText:
        return _Template.of(template).written(text, task, self.mask, self.place)


@dataclass(frozen=True)
class _Template:
    """The parts of a template.

    Attributes:
        head: Before the text.
        again: Between two copies of it; None for one copy.
        tail: Behind it; masks in it are pooled.
        place: "{place}" where the head has it; None otherwise.
    """

    head: str
    again: str | None
    tail: str
    place: str | None

    @classmethod
    def of(cls, template: str) -> _Template:
        copies, masks = template.count("{text}"), _MASKS.findall(template)
        if copies not in (1, 2):
            raise InputError(f"the template {template!r} has {{text}} {copies} times: write it once, or twice to echo")
        head, *middle, tail = template.split("{text}")
        if copies == 2 and masks:
            raise InputError(f"the template {template!r} pools a mask or the second copy of the text: leave one out")
        if len(masks) > 1 or (masks and "{mask}" not in tail):
            raise InputError(f"the template {template!r} has masks apart, or before the text: write them after it")
        if copies == 1 and not masks and not tail.strip():
            raise InputError(f"the template {template!r} ends with the text: the last token of a prompt is pooled")
        if template.count("{place}") > 1 or "{place}" in "".join(middle) + tail:
            raise InputError(
                f"the template {template!r} has {{place}} twice, or behind the text: write it once, before"
            )
        place = "{place}" if "{place}" in head else None
        if place is not None and (middle or masks):
            raise InputError(f"the template {template!r} pools no last token, which {{place}} would take: leave it out")
        return cls(head, middle[0] if middle else None, tail, place)

    def written(self, text: str, task: str, mask: str, place: str) -> SpanText:
        """The prompt of ``text``."""
        masks = _MASKS.search(self.tail)
        before, *after = self.head.split("{place}", 1)
        head, tail = (part.replace("{task}", task) for part in (place.join([before, *after]), self.tail))
        if self.again is not None:
            # The blank before the text belongs to the text's first token in most vocabularies, which is repeated.
            again = self.again.replace("{task}", task)
            again = again[:-1] if head.endswith(" ") and again.endswith(" ") else again
            return SpanText(f"{head}{text}{tail}", prefix=len(head), suffix=len(tail), again=again)
        start = len(head) + len(text)
        if masks is None:
            end = start + len(tail.rstrip())
            return SpanText(
                f"{head}{text}{tail}", prefix=len(head), suffix=len(tail), answer=(end - 1, end), closed=False
            )
        cue, rest = (part.replace("{task}", task) for part in (self.tail[: masks.start()], self.tail[masks.end() :]))
        pooled = masks.group().replace("{mask}", mask)
        answer = start + len(cue), start + len(cue) + len(pooled)
        suffix = cue + pooled + rest
        return SpanText(f"{head}{text}{suffix}", prefix=len(head), suffix=len(suffix), answer=answer)


def _prepending(template: str, prepend: tuple[int, int] | None) -> str:
    """The template with a place before its quoted text, where there is to be one."""
    return template if prepend is None else template.replace('"{text}"', '{place} "{text}"')


def _layers(prepend: Any) -> tuple[int, int]:
    layers = tuple(prepend) if isinstance(prepend, list | tuple) else ()
    if len(layers) != 2 or any(type(layer) is not int for layer in layers) or not 1 <= layers[0] <= layers[1]:
        raise InputError(f"prepend is {prepend!r}: give the first and the last layer, counted from 1, as in (1, 7)")
    return layers


def _shown(template: str, mask: str, place: str, task: str = "{task}") -> str:
    return template.replace("{mask}", mask).replace("{place}", place).replace("{task}", task)


_ARXIV = "https://arxiv.org/abs/"
_EOL = 'This sentence : "{text}" means in one word:"'
#: The prompts of MetaEOL: two for each of text classification, sentiment, paraphrases and information extraction.
_TASKS = (
    "In this task, you're presented with a text excerpt. Your task is to categorize the excerpt into a broad "
    "category such as 'Education', 'Technology', 'Health', 'Business', 'Environment', 'Politics', or 'Culture'. These "
    "categories help in organizing content for better accessibility and targeting. For this task, this sentence : "
    '"{text}" should be classified under one general category in one word:"',
    "In this task, you're given a statement and you need to determine whether it's presenting an 'Opinion' or a "
    "'Fact'. This distinction is vital for information verification, educational purposes, and content analysis. For "
    'this task, this sentence : "{text}" discriminates between opinion and fact in one word:"',
    "In this task, you're given a review from an online platform. Your task is to generate a rating for the product "
    "based on the review on a scale of 1-5, where 1 means 'extremely negative' and 5 means 'extremely positive'. For "
    'this task, this sentence : "{text}" reflects the sentiment in one word:"',
    "In this task, you're reading a personal diary entry. Your task is to identify the predominant emotion expressed, "
    'such as joy, sadness, anger, fear, or love. For this task, this sentence : "{text}" conveys the emotion in one '
    'word:"',
    "In this task, you're presented with two sentences. Your task is to assess whether the sentences convey the same "
    "meaning. Use 'identical', 'similar', 'different', or 'unrelated' to describe the relationship. To enhance the "
    'performance of this task, this sentence : "{text}" means in one word:"',
    "In this task, you're given a sentence and a phrase. Your task is to determine if the phrase can be a contextual "
    "synonym within the given sentence. Options include 'yes', 'no', or 'partially'. To enhance the performance of "
    'this task, this sentence : "{text}" means in one word:"',
    "In this task, you're examining a news article. Your task is to extract the most critical fact from the article. "
    'For this task, this sentence : "{text}" encapsulates the key fact in one word:"',
    "In this task, you're reviewing a scientific abstract. Your task is to identify the main entities (e.g., proteins, "
    'diseases) and their relations (e.g., causes, treats). For this task, this sentence : "{text}" highlights the '
    'primary entity or relation in one word:"',
)
_NAMED: dict[str, Callable[..., PromptFamily]] = {
    "eol": PromptFamily.eol,
    "metaeol": PromptFamily.metaeol,
    "promptbert": PromptFamily.promptbert,
    "inbedder": PromptFamily.inbedder,
    "echo": PromptFamily.echo,
    "promptreps": PromptFamily.promptreps,
}
