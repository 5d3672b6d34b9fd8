"""What the frameworks' loaders return of one file, a page or an element each, is one document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from langchain_core.documents import Document as Loaded
from langchain_core.indexing import InMemoryRecordManager, index
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document as LlamaDocument, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from situate.chunkers import Document, MarkdownChunker, TextChunker
from situate.integrations import langchain, llama_index
from situate.integrations._shared.pages import cut_document, file_groups, file_parts, joined, page_bounds

PAGES = [
    "Boilers are checked each year. The inspector is named Ada Quint, who",
    "signs the report in blue ink. It is kept for ten years.",
    "Repairs are charged apart. A pump costs 90 euros.",
]
FILE = "/x/boilers.pdf"


def lazy(texts: Sequence[str] = PAGES, first: int = 0) -> list[Loaded]:
    """As `PyPDFLoader` returns pages, from page ``first`` on."""
    total = {"source": FILE, "total_pages": len(PAGES), "producer": "test"}
    return [
        Loaded(page_content=text, metadata={**total, "page": place, "page_label": str(place + 1)})
        for place, text in enumerate(texts, first)
    ]


def read(texts: Sequence[str] = PAGES) -> list[LlamaDocument]:
    """As `SimpleDirectoryReader(filename_as_id=True)` returns pages."""
    known = {"file_name": "boilers.pdf", "file_path": FILE}
    return [
        LlamaDocument(id_=f"{FILE}_part_{n}", text=text, metadata={"page_label": str(n + 1), **known})
        for n, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def embed_model() -> llama_index.SituateEmbedding:
    return llama_index.SituateEmbedding(device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def embeddings(embed_model: llama_index.SituateEmbedding) -> langchain.SituateEmbeddings:
    return langchain.SituateEmbeddings.from_embedder(embed_model.embedder)


# -- which documents belong together ---------------------------------------------------------------------------------


def docling(page: int, *headings: str) -> dict[str, Any]:
    return {"source": "a.pdf", "dl_meta": {"headings": list(headings), "doc_items": [{"prov": [{"page_no": page}]}]}}


def unstructured(category: str, number: int, **more: Any) -> dict[str, Any]:
    known = {"source": "a.pdf", "filename": "a.pdf", "page_number": number}
    return {**known, "category": category, "element_id": f"{category}{number}", **more}


LOADERS: dict[str, list[dict[str, Any]]] = {
    "PDFReader": [{"page_label": str(n), "file_name": "a.pdf"} for n in (1, 2, 3)],
    "PyPDFLoader": [{"source": "a.pdf", "total_pages": 3, "page": n, "page_label": str(n + 1)} for n in range(3)],
    "PyPDFLoader, roman": [
        {"source": "a.pdf", "total_pages": 3, "page": n, "page_label": label}
        for n, label in enumerate(["i", "ii", "1"])
    ],
    "PDFPlumberLoader": [{"source": "a.pdf", "file_path": "a.pdf", "page": n, "total_pages": 3} for n in range(3)],
    "PyMuPDFReader": [{"total_pages": 3, "file_path": "a.pdf", "source": str(n)} for n in (1, 2, 3)],
    "PDFReader, roman": [{"page_label": label, "file_name": "a.pdf"} for label in ("i", "ii", "1")],
    "UnstructuredLoader": [unstructured("NarrativeText", n) for n in (1, 2, 3)],
    "DoclingLoader": [docling(n) for n in (1, 2, 3)],
}


@pytest.mark.parametrize("loader", LOADERS)
def test_the_pages_of_every_loader_are_one_document(loader: str) -> None:
    given = [Document(str(n), f"Words {n}.", metadata) for n, metadata in enumerate(LOADERS[loader])]
    others = [
        Document("o", "Other.", {"source": "b.pdf", "page": 7}),
        None,
        Document("m", "Mail.", {"source": "b.eml"}),
    ]
    assert file_groups(file_parts([given[0], others[0], *given[1:], *others[1:]])) == [[0, 2, 3], [1], [4], [5]]
    file = joined(given)
    assert file.id == "a.pdf"
    chunks = cut_document(file, TextChunker(200))
    labels = [metadata.get("page_label") for metadata in LOADERS[loader]]
    assert [chunk.text for chunk in chunks] == ["Words 0.", "Words 1.", "Words 2."]
    assert [chunk.metadata["page"] for chunk in chunks] == [1, 2, 3]
    assert [chunk.metadata.get("page_label") for chunk in chunks] == labels


def test_what_is_no_page_stays_alone() -> None:
    same = [Document(str(n), "Words.", {"source": "a.pdf"}) for n in range(2)]
    twice = [Document(str(n), "Words.", {"file_name": "a.pdf", "page_label": "1"}) for n in range(2)]
    back = [Document(str(n), f"Page {n}.", {"source": "a.pdf", "page": n}) for n in (2, 1)]
    for documents in (same, twice, back):
        assert file_groups(file_parts(documents)) == [[0], [1]]


@pytest.mark.parametrize(("key", "pages"), [("page", [4, 4, 5]), ("page_label", ["4", "4", "5"]), ("page", [6, 5, 4])])
def test_passages_that_another_splitter_cut_stay_alone(
    embeddings: langchain.SituateEmbeddings, key: str, pages: list[Any]
) -> None:
    pieces = [Loaded(page_content=f"Piece {n}.", metadata={"source": "a", key: page}) for n, page in enumerate(pages)]
    assert langchain.join_pages(pieces) == pieces
    holder = langchain.SituateDocumentIndex(embeddings=embeddings, path=":memory:")
    assert len(set(holder.upsert(pieces)["succeeded"])) == 3
    given = [LlamaDocument(text=one.page_content, metadata=one.metadata) for one in pieces]
    assert llama_index.join_pages(given) == given


def of_file(*pages: tuple[int, str]) -> Document:
    return joined([Document(str(page), text, {"source": "f", "page": page}) for page, text in pages])


def test_page_numbers_are_those_of_the_file() -> None:
    later = of_file((3, "Third."), (9, "Ninth."))
    assert [chunk.metadata["page"] for chunk in cut_document(later, TextChunker(200))] == [3, 9]
    assert len(of_file((1, "First."), (10**7, "Last.")).page_starts) == 2


@pytest.mark.parametrize("loader", ["PDFReader", "PyPDFLoader"])
def test_an_empty_page_begins_no_other_file(loader: str) -> None:
    texts = ("", "Words.", "")
    given = [Document(str(n), text, known) for n, (text, known) in enumerate(zip(texts, LOADERS[loader], strict=True))]
    assert file_groups(file_parts(given)) == [[0, 1, 2]]


def test_odd_metadata_of_a_loader_cost_no_words_and_no_memory() -> None:
    docs = [docling(1), docling(1)]
    docs[0]["dl_meta"]["headings"], docs[1]["dl_meta"]["headings"] = "Costs", 3
    lists = {**unstructured("Title", 1), "category": ["Title"]}
    for known in (*docs, lists, {"source": "a", "page": 1, "array": np.ones(2)}):
        pages = [Document("1", "Costs are high.", known), Document("2", "So is heat.", {**known, "page": 2})]
        assert joined(pages).text == "Costs are high.\n\nSo is heat."
    placed = [unstructured("Text", 10**9), {**unstructured("Text", 1), "page_number": None}, unstructured("Text", 1)]
    elements = [Document(str(n), f"{n}.", known) for n, known in enumerate(placed)]
    assert file_groups(file_parts(elements)) == [[0, 1], [2]], "a page that is named goes on until the next one"


def test_elements_become_markdown() -> None:
    elements = [
        Document("0", "ACME Corp", unstructured("Header", 1)),
        Document("1", "Boilers", unstructured("Title", 1, category_depth=0)),
        Document("2", "Checked each year.", unstructured("NarrativeText", 1)),
        Document("3", "Costs", unstructured("Title", 2, category_depth=1)),
        Document("4", "A check costs 90 euros.", unstructured("NarrativeText", 2)),
    ]
    file = joined(elements)
    assert file.text == "# Boilers\n\nChecked each year.\n\n## Costs\n\nA check costs 90 euros."
    chunks = MarkdownChunker(200).split(file)
    assert [(chunk.context.headings, chunk.metadata["page"]) for chunk in chunks] == [
        (("Boilers",), 1),
        (("Boilers", "Costs"), 2),
    ]
    assert "element_id" not in file.metadata


def test_doclings_headings_stand_once() -> None:
    texts = [
        "Boilers\nCosts\nA check costs 90 euros.",
        "Boilers\nCosts\nA repair is apart.",
        "Boilers\nLaw\nBy law.",
    ]
    above = [("Boilers", "Costs"), ("Boilers", "Costs"), ("Boilers", "Law")]
    file = joined([Document("d", text, docling(1, *names)) for text, names in zip(texts, above, strict=True)])
    assert file.text == ("# Boilers\n\n## Costs\n\nA check costs 90 euros.\n\nA repair is apart.\n\n## Law\n\nBy law.")


# -- how pages are cut -----------------------------------------------------------------------------------------------

WORD = st.sampled_from(["The", "boiler", "is", "hot.", "# Costs", "\n\n", "\n", "euros,", "鍋炉", "a-", "| a | b |"])


@given(st.lists(st.lists(WORD, max_size=8).map(" ".join), min_size=1, max_size=6))
def test_every_word_of_every_page_is_in_its_chunks(texts: list[str]) -> None:
    file = of_file(*enumerate(texts, 1))
    starts, covered = file.page_starts, 0
    for number, text in enumerate(texts):
        assert file.text.startswith(text.rstrip(), starts[number])
    for bounds in page_bounds(file):
        assert bounds.start == covered
        covered = bounds.end
    assert covered == len(file.text)
    chunks = cut_document(file, TextChunker(20))
    assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(file.text.split())
    for chunk in chunks:
        assert file.text[chunk.start : chunk.end] == chunk.text
        assert chunk.start == starts[chunk.metadata["page"] - 1] + chunk.metadata["page_span"][0]
    assert len({chunk.id for chunk in chunks}) == len(chunks)


@pytest.mark.parametrize(
    ("before", "after", "first"),
    [
        ("The report is signed by Ada", "Quint. It is kept.", "The report is signed by Ada"),
        ("It is signed by the", "inspector. It is kept.", "It is signed by the inspector."),
        ("It is in-", "spected. It is kept.", "It is in-spected."),
        ("It is done.", "it is kept.", "It is done."),
        ("鍋炉の検査は毎年行われ", "ます。次の文。", "鍋炉の検査は毎年行われます。"),
        ("It is kept.\n\n## Costs", "A check costs 90 euros.", "It is kept."),
        ("| Day | Limit |\n| --- | --- |\n| 1 | 2 |", "| 3 | 4 |", "| Day | Limit |\n| --- | --- |\n| 1 | 2 |"),
    ],
)
def test_a_sentence_that_runs_over_stays_whole(before: str, after: str, first: str) -> None:
    file = of_file((1, before), (2, after))
    chunks = cut_document(file, TextChunker(200))
    assert chunks[0].text == first
    assert len(chunks) == 2
    if before.endswith("Costs"):
        assert chunks[1].text == "## Costs\n\nA check costs 90 euros."


def test_ids_of_the_other_pages_stay_when_a_page_changes() -> None:
    def ids(texts: list[str]) -> dict[int, list[str]]:
        file = of_file(*enumerate(texts, 1))
        pages: dict[int, list[str]] = {}
        for chunk in cut_document(file, TextChunker(30)):
            pages.setdefault(chunk.metadata["page"], []).append(chunk.id)
        return pages

    before, after = ids(PAGES), ids([PAGES[0], PAGES[1] + " It may be read by anyone.", PAGES[2]])
    assert before[1] == after[1]
    assert before[3] == after[3]
    assert before[2] != after[2]


# -- LangChain -------------------------------------------------------------------------------------------------------

Add = Callable[[list[Loaded]], Any]


def langchain_places(embeddings: langchain.SituateEmbeddings, **options: Any) -> list[tuple[Any, Add]]:
    splitter = langchain.SituateTextSplitter(embeddings)
    store = langchain.SituateVectorStore(embeddings, path=":memory:", splitter=splitter, **options)
    whole = langchain.SituateDocumentIndex(embeddings=embeddings, path=":memory:", **options)
    return [(store, store.add_documents), (whole, whole.upsert)]


def test_langchain_stores_a_file_as_one_document(embeddings: langchain.SituateEmbeddings) -> None:
    for holder, add in langchain_places(embeddings):
        given = lazy()
        add(given)
        assert given == lazy(), "the caller's documents stay as they are"
        assert holder.index.document_ids() == [FILE]
        chunks = holder.index.get_chunks([FILE])
        assert [chunk.metadata["pages"] for chunk in chunks] == [[1, 2], [2, 2], [3, 3]]
        assert [chunk.metadata["page_label"] for chunk in chunks] == ["1", "2", "3"]
        assert chunks[0].text.endswith("who signs the report in blue ink.")
        ids = [chunk.id for chunk in chunks]
        add(lazy()[1:2])
        assert [chunk.id for chunk in holder.index.get_chunks([FILE])] == ids
        add(lazy(["It is kept for nine years."], 1))
        assert [chunk.text for chunk in holder.index.get_chunks([FILE])][1:] == ["It is kept for nine years.", PAGES[2]]
        add(lazy([*PAGES[:2], "Repairs are free."]))
        assert holder.index.document_ids() == [FILE]
        assert holder.index.get_chunks([FILE])[-1].text == "Repairs are free."
        holder.delete([FILE])
        assert holder.index.count() == 0
        for batch in (lazy()[:2], lazy()[2:], lazy()[:2]):
            add(batch)
        assert [chunk.id for chunk in holder.index.get_chunks([FILE])] == ids
    for holder, add in langchain_places(embeddings, join_pages=False):
        add(lazy())
        assert len(holder.index.document_ids()) == 3


def test_the_stores_give_back_what_they_were_given(embeddings: langchain.SituateEmbeddings) -> None:
    (store, add), (whole, _) = langchain_places(embeddings)
    assert add(lazy()) == [FILE] * 3
    assert whole.upsert(lazy())["succeeded"] == [FILE]
    [file] = langchain.join_pages(lazy())
    assert store.get_by_ids([FILE]) == whole.get([FILE]) == [file]
    assert file.metadata["page_metadata"][1] == {"page": 1, "page_label": "2"}
    assert langchain.join_pages([file]) == [file]


def test_offsets_count_in_the_files_text(embeddings: langchain.SituateEmbeddings) -> None:
    split = langchain.SituateTextSplitter(embeddings).split_documents(lazy())
    assert [chunk.metadata["page"] for chunk in split] == [1, 2, 3]
    text = langchain.join_pages(lazy())[0].page_content
    for chunk in split:
        start = chunk.metadata["start_index"]
        assert text[start : start + len(chunk.page_content)] == chunk.page_content


@pytest.mark.parametrize("join", [False, True])
def test_langchains_record_manager_keeps_pages_or_files(embeddings: langchain.SituateEmbeddings, join: bool) -> None:
    records = InMemoryRecordManager("pages")
    records.create_schema()
    [(store, _), _] = langchain_places(embeddings)

    def run(texts: Sequence[str]) -> dict[str, int]:
        given = langchain.join_pages(lazy(texts)) if join else lazy(texts)
        known = index(given, records, store, cleanup="incremental", source_id_key="source", key_encoder="sha256")
        return {name: known[name] for name in ("num_added", "num_deleted", "num_skipped")}  # type: ignore[literal-required]

    documents = 1 if join else 3
    assert run(PAGES) == {"num_added": documents, "num_deleted": 0, "num_skipped": 0}
    assert run(PAGES) == {"num_added": 0, "num_deleted": 0, "num_skipped": documents}
    changed = [PAGES[0], PAGES[1], "Repairs are free."]
    assert run(changed) == {"num_added": 1, "num_deleted": 1, "num_skipped": documents - 1}
    texts = " ".join(chunk.text for chunk in store.index.get_chunks(store.index.document_ids()))
    assert "Repairs are free." in texts
    assert "90 euros" not in texts
    assert "blue ink" in texts


# -- LlamaIndex ------------------------------------------------------------------------------------------------------


def parsed(embed_model: llama_index.SituateEmbedding, documents: list[LlamaDocument], **options: Any) -> list[TextNode]:
    parser = llama_index.LateChunkingNodeParser(embed_model=embed_model, **options)
    return [node for node in parser.get_nodes_from_documents(documents) if isinstance(node, TextNode)]


@pytest.mark.parametrize("splitter", [None, SentenceSplitter(chunk_size=200, chunk_overlap=0)], ids=["own", "theirs"])
def test_nodes_belong_to_their_page(embed_model: llama_index.SituateEmbedding, splitter: Any) -> None:
    nodes = parsed(embed_model, read(), splitter=splitter)
    assert [node.ref_doc_id for node in nodes] == [f"{FILE}_part_{n}" for n in range(3)]
    assert [node.metadata["pages"] for node in nodes] == [[1, 2], [2, 2], [3, 3]]
    assert nodes[0].text.endswith("who signs the report in blue ink.")
    assert (nodes[0].start_char_idx, nodes[0].end_char_idx) == (None, None)
    assert PAGES[1][nodes[1].start_char_idx : nodes[1].end_char_idx] == nodes[1].text == "It is kept for ten years."
    assert nodes[2].node_id == parsed(embed_model, read([*PAGES[:1], "Other.", PAGES[2]]), splitter=splitter)[2].node_id
    alone = parsed(embed_model, read(), splitter=splitter, join_pages=False)
    assert [node.text for node in alone] == PAGES
    assert not np.allclose(alone[2].embedding, nodes[2].embedding, atol=1e-3)


def test_deleting_a_page_deletes_what_begins_on_it(embed_model: llama_index.SituateEmbedding) -> None:
    parser = llama_index.LateChunkingNodeParser(embed_model=embed_model)
    held = VectorStoreIndex.from_documents(read(), embed_model=embed_model, transformations=[parser])
    held.delete_ref_doc(f"{FILE}_part_2", delete_from_docstore=True)
    found = held.as_retriever(similarity_top_k=9).retrieve("pump")
    assert sorted(hit.node.metadata["page_label"] for hit in found) == ["1", "2"]
    held.refresh_ref_docs([*read()[:1], *read(PAGES)[1:]])
    assert len(held.as_retriever(similarity_top_k=9).retrieve("pump")) == 3


@pytest.mark.parametrize("join", [False, True])
def test_upserts_replace_a_page_or_a_file(embed_model: llama_index.SituateEmbedding, join: bool) -> None:
    store = llama_index.SituateVectorStore(path=":memory:")
    pipeline = IngestionPipeline(
        transformations=[llama_index.LateChunkingNodeParser(embed_model=embed_model), embed_model],
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS,
        vector_store=store,
        disable_cache=True,
    )

    def run(texts: Sequence[str]) -> list[str]:
        pipeline.run(documents=llama_index.join_pages(read(texts)) if join else read(texts))
        return sorted(node.get_content() for node in store.get_nodes())

    whole = [node.text for node in parsed(embed_model, read())]
    assert run(PAGES) == sorted(whole)
    changed = "Repairs are free."
    assert run([*PAGES[:2], changed]) == sorted([*whole[:2], changed])
    assert {node.metadata["page"] for node in store.get_nodes()} == {1, 2, 3}


def test_the_retriever_keeps_files(embed_model: llama_index.SituateEmbedding) -> None:
    retriever = llama_index.SituateRetriever.from_documents(read(), embed_model=embed_model)
    assert retriever.index.document_ids() == [FILE]
    stored = [chunk.id for chunk in retriever.index.get_chunks([FILE])]
    retriever.update_ref_doc(read()[1])
    assert [chunk.id for chunk in retriever.index.get_chunks([FILE])] == stored
    retriever.insert(read([*PAGES, "A fourth page."])[3])
    assert [chunk.metadata["page"] for chunk in retriever.index.get_chunks([FILE])] == [1, 2, 3, 4]
    retriever.add_documents(read())  # from the first page on: the whole file, which has become shorter
    assert [chunk.id for chunk in retriever.index.get_chunks([FILE])] == stored
    assert retriever.refresh_ref_docs([read()[0], LlamaDocument(id_="n", text="Other."), *read()[1:]]) == [
        False,
        True,
        False,
        False,
    ]
    apart = llama_index.SituateRetriever.from_documents(read(), embed_model=embed_model, join_pages=False)
    assert len(apart.index.document_ids()) == 3
