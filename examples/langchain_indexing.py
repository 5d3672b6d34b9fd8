"""LangChain: `index()` with a record manager keeps the store as the folder is: only changed documents are embedded.

python -m examples.langchain_indexing
"""

from __future__ import annotations

from pathlib import Path

from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index

from situate.integrations.langchain import SituateDocumentIndex, SituateEmbeddings, SituateLoader

HANDBOOK = Path(__file__).parent / "documents"


def runs(documents: list[Document]) -> list[dict[str, int]]:
    """What `index` reports of a first run, a second one, and one after a document has changed and one has gone."""
    # The unit is the whole document, so that a change embeds its chunks anew with their document in view.
    store = SituateDocumentIndex(embeddings=SituateEmbeddings())
    manager = InMemoryRecordManager("handbook")
    manager.create_schema()
    changed = Document(documents[0].page_content + "\n\nAdded later.", metadata=documents[0].metadata)
    each = [documents, documents, [changed, *documents[1:-1]]]
    settings = {"cleanup": "full", "source_id_key": "source", "key_encoder": "blake2b"}
    return [dict(index(run, manager, store, **settings)) for run in each]


if __name__ == "__main__":
    for report in runs([Document(d.page_content, metadata=d.metadata) for d in SituateLoader(HANDBOOK).load()]):
        print(report)
