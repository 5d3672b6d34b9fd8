"""One normalisation for both sides of BM25: words that read alike are the same terms, in every script."""

from __future__ import annotations

import unicodedata

import pytest

from situate.chunkers import Chunk, Document
from situate.embedders import Embedder
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.config import LexicalScheme
from situate.retrievers.index.lexical import LexicalEncoder

ENCODER = LexicalEncoder(LexicalScheme(context=(), neighbours=0.0))
WRITTEN = {
    "decomposed": ("The file of Mu\u0308ller", "file Müller"),
    "ligature": ("the ﬁnal eﬀort", "final effort"),
    "soft hyphen": ("Bun\u00addes\u00adbahn", "Bundesbahn"),
    "full width": ("ＷＩＤＥ １２", "wide 12"),
    "half-width kana": ("ｶﾀｶﾅ", "カタカナ"),
    "zero width": ("zero\u200bwidth \ufeffmark", "zerowidth mark"),
    "tatweel": ("كتـــاب", "كتاب"),
    "case": ("STRASSE ΣΊΣΥΦΟΣ", "straße σίσυφος"),
    "mark without a composed letter": ("x\u0302yz", "X\u0302YZ"),
    "joiner between letter and mark": ("cafe\u200d\u0301", "café"),
}
#: A sentence, and a question that shares a word with it and hardly anything else.
SPOKEN = {
    "chinese": ("北京是中华人民共和国的首都。上海是最大的城市。", "首都在哪里?"),
    "japanese": ("東京タワーは港区にある電波塔です。", "電波塔はどこ?"),
    "thai": ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", "เมืองหลวงอยู่ที่ไหน"),
    "khmer": ("ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា", "រាជធានី"),
    "lao": ("ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ", "ນະຄອນຫຼວງ"),
    "burmese": ("နေပြည်တော်သည် မြန်မာနိုင်ငံ၏ မြို့တော်ဖြစ်သည်", "မြို့တော်"),
    "hindi": ("नई दिल्ली भारत की राजधानी है।", "राजधानी कहाँ है?"),
    "amharic": ("አዲስ አበባ የኢትዮጵያ ዋና ከተማ ናት።", "ዋና ከተማ"),
    "tamil": ("சென்னை தமிழ்நாட்டின் தலைநகரம் ஆகும்", "தலைநகரம்"),
}


def terms(text: str, encoder: LexicalEncoder = ENCODER) -> set[int]:
    return set(encoder.encode_query(text).indices.tolist())


def document_terms(text: str) -> set[int]:
    chunk = Chunk.of(Document("d", text), 0, 0, len(text))
    return set(ENCODER.encode_chunks([chunk])[0].indices.tolist())


@pytest.mark.parametrize("name", WRITTEN)
def test_words_that_read_alike_are_the_same_terms(name: str) -> None:
    one, other = WRITTEN[name]
    assert document_terms(one) >= terms(other) != set()
    assert document_terms(other) == document_terms(unicodedata.normalize("NFD", other))


@pytest.mark.parametrize("language", SPOKEN)
def test_a_question_shares_terms_with_its_answer_and_not_with_another(language: str) -> None:
    """Under the language's own name, too, for which Qdrant may have neither stop words nor stemmer."""
    text, question = SPOKEN[language]
    others = [words for name, (words, _) in SPOKEN.items() if name != language]
    for encoder in (ENCODER, LexicalEncoder(LexicalScheme(context=(), neighbours=0.0, language=language))):
        asked = terms(question, encoder)
        assert asked & terms(text, encoder)
        assert not any(asked & terms(other, encoder) for other in others)


def test_a_korean_noun_of_two_syllables_is_found_with_its_particles() -> None:
    encoder = LexicalEncoder(LexicalScheme(context=(), neighbours=0.0))
    query = encoder.encode_query("펌프 점검", languages={"ngrams"})
    assert query.total == pytest.approx(2)
    weights = dict(zip(query.indices.tolist(), query.values.tolist(), strict=True))
    score = {
        text: sum(weights.get(term, 0.0) for term in document_terms(text))
        for text in ("펌프는 점검합니다", "펌프 점검", "밸브는 교체합니다")
    }
    assert list(score.values()) == pytest.approx([1, 2, 0])


def test_a_mark_makes_another_word() -> None:
    assert terms("कल") != terms("काल")
    assert not terms("कल") & terms("काल")
    assert len(terms("नमस्ते", LexicalEncoder(LexicalScheme(language="none")))) == 1


def test_ascii_terms_are_those_of_before() -> None:
    before = LexicalEncoder(LexicalScheme(terms=1))
    text = "The runners' parseHTTPHeader and load_all, running in 1990s; don't"
    assert terms(text) == terms(text, before)


def test_decomposed_names_are_found_by_composed_questions() -> None:
    names = ["Müller", "Köhler", "Jürgens", "Bärbel", "Zoë", "Renée", "Ångström", "Dvořák", "Łukasz Wójcik", "Núñez"]
    documents = [
        Document(f"d{i}", unicodedata.normalize("NFD", f"The file of {name} is kept in cabinet {i}."))
        for i, name in enumerate(names)
    ]
    with Index(Embedder(), config=PipelineConfig.fast()) as index:
        index.add(documents)
        for i, name in enumerate(names):
            hit = index.search(f"Where is the file of {name}?")[0]
            assert hit.chunk.document_id == f"d{i}"
            document = documents[i]
            assert document.text[hit.chunk.start : hit.chunk.end] == hit.chunk.text
