"""Every language is read by BM25 as it needs, and queries as the collection's documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from situate.chunkers import Chunk, Document
from situate.embedders import Embedder
from situate.errors import FallbackWarning, IncompatibleIndexError, InputError
from situate.retrievers import DocumentSignals, Index, LexicalScheme, PipelineConfig, connect
from situate.retrievers.index.languages import detected, weights
from situate.retrievers.index.lexical import LexicalEncoder
from situate.retrievers.storage.edge import bind_tenant, prepare_for_tenants

#: A document, its reading, a question in other forms of its words, and another document of the language.
WRITTEN = {
    "english": (
        "The tenant has to give notice in writing and leaves the flats on the last day of the month, at noon, with the "
        "keys that were handed over.",
        "english",
        "leaving a flat",
        "The museum is open on Sundays, and on all other days but Monday it closes at five in the afternoon.",
    ),
    "german": (
        "Der Mieter muss die Kündigung schriftlich einreichen und übergibt zum Ende des Monats die Mietwohnungen.",
        "german",
        "Wann ist eine Wohnung zu übergeben?",
        "Das Museum ist am Sonntag geöffnet und schließt an allen anderen Tagen der Woche um fünf Uhr nachmittags.",
    ),
    "polish": (
        "Najemca musi złożyć wypowiedzenie na piśmie i w ostatnim dniu miesiąca przekazuje mieszkania wraz z kluczami.",
        "ngrams",
        "przekazanie mieszkaniem",
        "Muzeum jest otwarte w niedziele, a we wszystkie inne dni tygodnia zamyka się o piątej po południu.",
    ),
    "russian": (
        "Арендатор обязан подать уведомление в письменной форме и передаёт квартиры в последний день месяца с ключами.",
        "russian",
        "передать квартиру",
        "Музей открыт по воскресеньям, а во все остальные дни недели он закрывается в пять часов вечера.",
    ),
    "chinese": (
        "租客必须以书面形式提出退租，并在当月最后一天交还公寓和钥匙。",
        "ngrams",
        "什么时候交还公寓?",
        "博物馆每逢星期日开放，其他日子下午五点关门。",
    ),
    "greek": (
        "Ο ενοικιαστής παραδίδει τα διαμερίσματα την τελευταία ημέρα του μήνα μαζί με τα κλειδιά.",
        "ngrams",
        "παράδοση διαμερίσματος",
        "Το μουσείο είναι ανοιχτό τις Κυριακές και κλείνει στις πέντε το απόγευμα.",
    ),
    "korean": (
        "임차인은 서면으로 해지를 통보하고 그 달의 마지막 날에 아파트를 열쇠와 함께 돌려주어야 한다.",
        "ngrams",
        "아파트와 열쇠",
        "박물관은 일요일에 열고 다른 날에는 오후 다섯 시에 닫는다.",
    ),
}
BARE = LexicalScheme(context=(), neighbours=0.0)


def one_chunk(text: str) -> list[Chunk]:
    return [Chunk.of(Document("d", text), 0, 0, len(text))]


@pytest.mark.parametrize("language", WRITTEN)
def test_a_document_is_read_in_its_language(language: str) -> None:
    text, reading, question, other = WRITTEN[language]
    assert detected(text) == detected(other) == reading
    for scheme in (BARE, LexicalScheme(context=(), neighbours=0.0, language=language)):
        encoder = LexicalEncoder(scheme)
        asked = encoder.encode_query(question, languages={reading})
        shared = [
            len(np.intersect1d(asked.indices, encoder.encode_chunks(one_chunk(each))[0].indices))
            for each in (text, other)
        ]
        assert shared[0] > shared[1] or (language == "korean" and shared[0] > 0)


def test_english_terms_and_weights_are_those_of_before() -> None:
    text = WRITTEN["english"][0] + " Café ﬁle: parseHTTPHeader"
    now, before = (LexicalEncoder(LexicalScheme(terms=terms)) for terms in (3, 2))
    for new, old in (
        (now.encode_chunks(one_chunk(text))[0], before.encode_chunks(one_chunk(text))[0]),
        (
            now.encode_query("leaving flats", [(0.3, "the key")]),
            before.encode_query("leaving flats", [(0.3, "the key")]),
        ),
    ):
        assert new.indices.tolist() == old.indices.tolist()
        assert new.values.tolist() == old.values.tolist()


def test_a_word_weighs_one_in_every_reading() -> None:
    for question, reading, words in (
        ("leaving flats", "english", 2),
        ("Kündigung der Wohnung im Mai", "german", 3),
        ("gatos y tigres", "ngrams", 3),
    ):
        query = LexicalEncoder(BARE).encode_query(question, languages={reading})
        assert query.total == pytest.approx(words)
        # Of n-grams some are found in any text: relevance does not count these.
        assert (query.chance > 0) == (reading != "english")
    assert LexicalEncoder(BARE).encode_query("首都在哪里", languages={"ngrams"}).chance == 0


def test_a_query_is_read_in_the_languages_that_are_probable_for_it() -> None:
    readings = {"english", "german", "ngrams"}
    assert weights("What is the boundary layer over a flat plate?", readings) == {"english": 1.0}
    assert weights("Wie hoch ist die Miete einer Wohnung?", readings)["german"] == 1.0
    assert weights("首都在哪里?", readings) == {"ngrams": 1.0}
    both = LexicalEncoder(BARE).encode_query("Berlin Wall", languages={"english", "german"})
    assert both.total <= both.values.sum()


@pytest.mark.parametrize(
    "text", [" ", "🙂🎉", "4711 / 22", "x", "\ud800 lone", "x" * 100_000, "नमस्ते", "سلام", "שלום", "ꦲꦏ꧀ꦱꦫ", "🏴󠁧󠁢󠁥󠁮󠁧󠁿 abc"]
)
def test_any_text_has_a_reading(text: str) -> None:
    assert detected(text) in {"english", "ngrams"}
    encoder = LexicalEncoder(BARE)
    document, query = encoder.encode_chunks(one_chunk(text))[0], encoder.encode_query(text)
    assert set(query.indices.tolist()) <= set(document.indices.tolist())


def test_a_collection_of_several_languages_keeps_them(tmp_path: Path) -> None:
    """And the few documents of one language are not before all others for every query."""
    config = PipelineConfig(document=DocumentSignals())
    documents = [
        Document(f"{language} {i}", text)
        for language, (one, _, _, other) in WRITTEN.items()
        for i, text in enumerate((one, other))
    ]
    with Index(Embedder(), path=tmp_path / "store", config=config) as index:
        index.add(documents[:4])
        index.add(documents[4:])
    with Index(Embedder(), path=tmp_path / "store", config=config) as index:
        for language, (_, _, question, _) in WRITTEN.items():
            hits = index.search(question, k=3)
            # All that MiniLM knows of Chinese and its like is what BM25 finds.
            assert max(hits, key=lambda hit: hit.scores.get("bm25", 0)).chunk.document_id == f"{language} 0"
        readings = {reading for _, reading, _, _ in WRITTEN.values()}
        kept = {key for key in index.client.get_collection("situate").config.metadata if "language" in key}
        assert kept == {f"situate_language_{reading}" for reading in readings}


def test_a_collection_of_the_version_before_opens_as_it_is(tmp_path: Path) -> None:
    for language in ("english", "german"):
        before = PipelineConfig(lexical=LexicalScheme(terms=2, language=language))
        now = PipelineConfig(lexical=LexicalScheme(language="auto" if language == "english" else language))
        document = Document("d", WRITTEN[language][0])
        with Index(Embedder(), path=tmp_path / language, config=before) as index:
            index.add([document])
        with Index(Embedder(), path=tmp_path / language, config=now) as index:
            assert index.add([document]).unchanged == 1
            assert index.config.lexical == before.lexical
    with (
        Index(Embedder(), path=tmp_path / "german", config=PipelineConfig()) as index,
        pytest.raises(IncompatibleIndexError, match="language"),
    ):
        index.count()


def test_languages_are_named() -> None:
    encoder = LexicalEncoder(LexicalScheme(language=("german", "english")))
    assert encoder.language_of(one_chunk(WRITTEN["german"][0])) == "german"
    assert encoder.language_of(one_chunk(WRITTEN["english"][0])) == "english"
    assert encoder.language_of(one_chunk(WRITTEN["chinese"][0])) in {"german", "english"}
    assert LexicalScheme(language=("german", "english")).stored()["language"] == ["german", "english"]
    for language in ("klingon", "de", ("german", "klingon"), ()):
        with pytest.raises(InputError, match=r"among the names of languages: .*german"):
            LexicalScheme(language=language)


def test_a_client_that_may_only_write_points_says_what_is_lost() -> None:
    client = connect()
    config = PipelineConfig(lexical=LexicalScheme(context=()))
    with Index(Embedder(), client=client, config=config) as index:
        index.count()
    prepare_for_tenants(client, "situate", "tenant")
    with Index(Embedder(), client=bind_tenant(client, "tenant", "a"), config=config) as index:
        with pytest.warns(FallbackWarning, match="german.*LexicalScheme"):
            index.add([Document("d", WRITTEN["german"][0])])
        assert index.search(WRITTEN["german"][2])[0].scores["bm25"] > 0
