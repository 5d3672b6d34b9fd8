"""Questions in several languages with their answers, and propositions with their spans, out of a model's answer."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import pytest

from situate.chunkers import Chunk, Context, Document, Prompt, Proposition, PropositionSituator, QuestionSituator
from situate.errors import InputError
from situate.retrievers import Hit
from situate.retrievers.index.documents import version_hash

DOCUMENT = Document("d", "Heading. The tower was built in 1889. It is 330 metres tall.")
CHUNK = Chunk.of(DOCUMENT, 0, 9, len(DOCUMENT.text))


class Answers:
    """A language model that gives one answer, and keeps the prompts."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.prompts: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt]) -> list[str]:
        self.prompts += prompts
        return [self.answer] * len(prompts)

    async def agenerate(self, prompts: Sequence[Prompt]) -> list[str]:
        return self.generate(prompts)


def test_questions_of_several_languages_keep_their_answers() -> None:
    model = Answers("1. How tall is the tower? => 330 metres\nDas ist => kein Satz.\n2. Wie hoch ist der Turm?\n")
    situator = QuestionSituator(model, languages=("English", "German"), count=1, answers=True)
    (chunk,) = situator.situate(DOCUMENT, [CHUNK])
    assert chunk.context.questions == ("How tall is the tower?", "Wie hoch ist der Turm?")
    assert chunk.context.answers == ("330 metres", "")
    assert "Write 1 in each of these languages: English, German." in model.prompts[0].text
    again = pickle.loads(pickle.dumps(situator))
    assert again.instruction == situator.instruction
    assert again.fingerprint() == situator.fingerprint() != QuestionSituator(model, count=1).fingerprint()
    with pytest.raises(InputError, match="give a list of names, \\['German'\\]"):
        QuestionSituator(model, languages="German")


def test_questions_of_several_levels_tell_theirs() -> None:
    model = Answers(
        "[sentence] How tall is it? => 330 metres\n- [Passage] What is the tower like?\n"
        "Topic: What is Paris known for?\nWhich year was it?\n[chapter] Who built it?"
    )
    situator = QuestionSituator(model, count=2, answers=True, levels=("sentence", "passage", "topic"))
    (chunk,) = situator.situate(DOCUMENT, [CHUNK])
    asked = dict(zip(chunk.context.questions, chunk.context.levels, strict=True))
    assert asked == {
        "How tall is it?": "sentence",
        "What is the tower like?": "passage",
        "What is Paris known for?": "topic",
        "Which year was it?": "",
        "[chapter] Who built it?": "",
    }
    assert chunk.context.answers == ("330 metres", "", "", "", "")
    assert "Write 2 of each of these kinds" in model.prompts[0].text
    assert Context.from_dict(chunk.context.to_dict()) == chunk.context
    hit = Hit(chunk, 1.0, matched={"questions": 2})
    assert (hit.question, hit.level, hit.answer) == ("What is Paris known for?", "topic", None)
    assert pickle.loads(pickle.dumps(situator)).fingerprint() == situator.fingerprint()
    (plain,) = QuestionSituator(model, count=2).situate(DOCUMENT, [CHUNK])
    assert plain.context.levels == ()
    for levels in ("topic", ("chapter",)):
        with pytest.raises(InputError, match="give a list of 'sentence', 'passage', 'topic'"):
            QuestionSituator(model, levels=levels)


def test_propositions_stand_at_the_sentence_they_come_from() -> None:
    model = Answers("- The tower is 330 metres tall.\n- The tower was built in 1889.\n- Paris is lovely.")
    (chunk,) = PropositionSituator(model, count=2).situate(DOCUMENT, [CHUNK])
    first, second = chunk.context.propositions
    assert DOCUMENT.text[first.start : first.end] == "It is 330 metres tall."
    assert DOCUMENT.text[second.start : second.end] == "The tower was built in 1889."
    assert chunk.context.render(("propositions",)) == "The tower is 330 metres tall.\nThe tower was built in 1889."
    assert Context.from_dict(chunk.context.to_dict()) == chunk.context
    with pytest.raises(InputError, match="count=0"):
        PropositionSituator(model, count=0)


def test_a_chunk_without_them_keeps_the_hash_of_earlier_stores() -> None:
    """The fields are later than the first stores: what is not set must not make a stored document count as changed."""
    earlier = (
        "('1', Context(title='T', headings=('H',), path=None, date=None, speaker=None, previous=None, sentence=None, "
        "questions=(), columns=()), [('a', 1)])"
    )
    chunk = Chunk("1", "d", 0, "x", 0, 1, Context(title="T", headings=("H",)), {"a": 1})
    from situate.types import stable_id

    assert version_hash(DOCUMENT, [chunk]) == stable_id("document", "d", DOCUMENT.content_hash, earlier)
    other = Chunk("1", "d", 0, "x", 0, 1, Context(title="T", propositions=(Proposition("p", 0, 1),)), {"a": 1})
    assert version_hash(DOCUMENT, [other]) != version_hash(DOCUMENT, [chunk])
