"""Sentences, questions and speakers in every script: where they end, and that nothing is lost."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from situate.chunkers import DialogueChunker, Document, SentenceWindowChunker
from situate.chunkers.sentences import is_question, sentence_spans

#: Two sentences, parted by a bar. Where a script writes no space between them, the text has none.
TWO = {
    "amharic": "አዲስ አበባ ዋና ከተማ ናት።| ስንት ሰዎች ይኖራሉ፧",
    "arabic": "القاهرة هي العاصمة.| كم عدد سكانها؟",
    "armenian": "Երևանը մայրաքաղաքն է։| Որտե՞ղ է գետը։",
    "bengali": "ঢাকা রাজধানী।| কত মানুষ?",
    "burmese": "နေပြည်တော်သည် မြို့တော်ဖြစ်သည်။| လူဦးရေ ဘယ်လောက်လဲ။",
    "cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ.| ᎣᏏᏲ!",
    "chinese": "北京是首都。|人口多少？",
    "chinese, ASCII marks": "你好!|他走了?|是的。",
    "cyrillic": "Москва – столица, см. ул. Тверскую.| Сколько жителей?",
    "georgian": "თბილისი დედაქალაქია.| რამდენია?",
    "german": "Der Bau wurde am 3. Oktober begonnen, vgl. Abb. 2.| Wann war das?",
    "greek": "Πού είναι η Αθήνα;| Είναι εδώ.",
    "gujarati": "ગાંધીનગર રાજધાની છે.| કેટલા?",
    "hebrew": "ירושלים היא הבירה.| כמה תושבים?",
    "hindi": "दिल्ली राजधानी है।| कितने लोग?",
    "japanese": "東京は首都です。|「はい。」|人口は３．５倍？！|そう。",
    "khmer": "ភ្នំពេញជារាជធានី។| មានប៉ុន្មាន?",
    "korean": "서울은 수도이다.| 인구는 얼마인가?",
    "mixed": "See 東京。|Then दिल्ली।| And القاهرة؟| End!",
    "mongolian": "ᠤᠯᠤᠰ᠃| ᠬᠣᠲᠠ᠃",
    "persian": "تهران پایتخت است.| چند نفر؟",
    "tamil": "சென்னை தலைநகரம்.| எத்தனை?",
    "tibetan": "ལྷ་ས།| བོད།",
    "urdu": "اسلام آباد دارالحکومت ہے۔| کتنے لوگ؟",
    "danish": "Den blev grundlagt den 3. maj 1998, bl.a. her.| Hvornår?",
}


@pytest.mark.parametrize("name", TWO)
def test_sentences_end_at_the_marks_of_their_script(name: str) -> None:
    expected = [part.strip() for part in TWO[name].split("|")]
    text = TWO[name].replace("|", "")
    assert [text[start:end] for start, end in sentence_spans(text)] == expected


def test_what_ends_no_sentence() -> None:
    for text in (
        "Am 3. Oktober kam er.",
        "Er wohnt z.B. hier; dort nicht; wer weiß.",
        "３．５倍",
        "v1.2.3 and a.b.c",
    ):
        assert len(sentence_spans(text)) == 1
    assert len(sentence_spans("It was in 9. The end.")) == 2


@pytest.mark.parametrize(
    ("line", "question"),
    [
        ("Who?", True),
        ("谁？", True),
        ("من؟", True),
        ("ማን፧", True),
        ("Ո՞վ է", True),
        ("Ποιος;", True),
        ("ใครเป็นคนเขียน", True),
        ("ဘယ်သူလဲ။", True),
        ("“Who?”", True),
        ("It is he.", False),
        ("他来了。", False),
        ("यह घर है।", False),
        ("🙂", False),
        ("", False),
    ],
)
def test_questions_are_told_by_their_mark_where_their_script_has_one(line: str, question: bool) -> None:
    assert is_question(line) == question


@given(
    st.lists(
        st.one_of(st.sampled_from([part for text in TWO.values() for part in text.split("|")]), st.text(max_size=12)),
        max_size=12,
    )
)
def test_no_letter_of_mixed_text_is_lost(parts: list[str]) -> None:
    text = "".join(parts)
    spans = sentence_spans(text)
    assert all(start < end for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    for chunker in (SentenceWindowChunker(40), DialogueChunker(40)):
        chunks = chunker.split(Document("d", text))
        assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())


def test_emoji_alone_are_kept() -> None:
    text = "🙂🎉 👩‍👩‍👧 🏴󠁧󠁢󠁥󠁮󠁧󠁿"
    assert [text[slice(*span)] for span in sentence_spans(text)] == [text]
    assert [chunk.text for chunk in SentenceWindowChunker().split(Document("d", text))] == [text]


def test_speakers_are_named_in_every_script() -> None:
    for text, names in (
        ("安：你好。\n李雷：再见！", ["安", "李雷"]),
        ("अनिल: नमस्ते\nमीना: जी", ["अनिल", "मीना"]),
        ("محمد: مرحبا\nليلى: أهلا", ["محمد", "ليلى"]),
        ("สมชาย: สวัสดี\nมานี: ค่ะ", ["สมชาย", "มานี"]),
    ):
        chunks = DialogueChunker(merge=False).split(Document("d", text))
        assert [chunk.context.speaker for chunk in chunks] == names


@pytest.mark.parametrize("piece", ["。", "!", "?", ";", "१.", '。"', "3. ", "አ፧", "α;"])
def test_marks_alone_take_linear_time(piece: str) -> None:
    started = time.process_time()
    sentence_spans(piece * 50_000)
    is_question(piece * 50_000)
    assert time.process_time() - started < 2
