"""Bulk indexing through Ray Data, for a corpus that would take one machine too long.

    index = Index(Embedder("BAAI/bge-m3"), path="http://qdrant:6333", situators=[HeadingSituator()])
    report = add_dataset(index, ray.data.read_parquet("s3://corpus/"))

Nothing here cuts, embeds or writes: every actor holds an `Index` of the same configuration and calls `Index.add`, so a
cluster writes what one process would write, and the same call again continues an interrupted one.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from situate.errors import InputError, MissingExtraError, SituateError
from situate.retrievers.index.documents import BATCH_DOCUMENTS, EmptyDocumentWarning, IndexReport, with_warning
from situate.retrievers.index.index import Index
from situate.types import Document

if TYPE_CHECKING:
    from ray.data import Dataset

Row = Mapping[str, Any]


def row_to_document(row: Row) -> Document:
    """The document of a row: columns ``id`` and ``text``, and every other column that is not null as metadata.

    Raises:
        InputError: ``id`` or ``text`` is missing, or no text.
    """
    for column in ("id", "text"):
        if not isinstance(row.get(column), str):
            raise InputError(
                f"the row with the columns {sorted(row)} has {row.get(column)!r} as {column!r}: a document needs text "
                "there. Rename columns with Dataset.rename_columns, or pass to_document="
            )
    metadata = {name: value for name, value in row.items() if name not in ("id", "text") and value is not None}
    return Document(row["id"], row["text"], metadata)


def add_dataset(
    index: Index,
    dataset: Dataset,
    *,
    to_document: Callable[[Row], Document] = row_to_document,
    actors: int | None = None,
    num_gpus: float | None = None,
    num_cpus: float = 1.0,
) -> IndexReport:
    """Index the documents of a Ray dataset: `Index.add`, on as many actors as the cluster has room for.

    On a server or a cluster every actor cuts, embeds and writes its own batches. An embedded store belongs to one
    process: there, the calling process does all of it, and Ray only reads.

    Interrupted, whether by an error, by Ctrl-C or by a lost machine, it is resumed by calling it again: documents that
    are stored already, word for word and cut the same way, cost a look-up. An actor that dies is started anew by Ray
    and its batch done again; documents that it had written before are then counted as unchanged.

    Args:
        index: The target: an index whose ``path`` is a server's URL, or whose ``client`` is a function that opens one
            (to read an API key where it runs, say). It is pickled as its configuration and opened in every actor.
        dataset: One row a document. Of several rows with the same id one stays, the last written.
        to_document: What a row is; see `row_to_document`.
        actors: How many at most; by default one for each ``num_gpus`` of the cluster's GPUs, or for each ``num_cpus``
            of its CPUs where it has no GPU.
        num_gpus: GPUs of an actor; 1 by default where the cluster has any, else 0. Two actors on one GPU (0.5) keep it
            busy while one of them cuts and writes, and hold the model twice.
        num_cpus: CPUs of an actor, and threads of its model where it runs on them.

    Returns:
        The total report.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: A row is no document; several actors would write an embedded store; the index cannot be
            sent to actors. Nothing more is written then, and what was written stays.
        ServerError: The server was away for too long.
        ray.exceptions.RayError: ``to_document`` raised something else, or Ray failed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError.of("ray[data]", "ray", "bulk indexing") from error

    # Opened here first: an index that cannot be opened fails before anything starts, and the actors find a collection.
    if index.gateway.embedded:
        if actors is not None and actors > 1:
            raise InputError(
                f"actors={actors}: the embedded store {index.path} belongs to one process, this one. Leave "
                "actors out, or run a Qdrant server and give the index its URL"
            )
        return _add_here(index, dataset, to_document)
    index.__getstate__()  # raises where it cannot be sent to actors
    if not ray.is_initialized():
        ray.init()
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if num_gpus is None:
        num_gpus = 1.0 if resources.get("GPU", 0) else 0.0
    if actors is None:
        actors = int(resources["GPU"] // num_gpus if num_gpus else resources["CPU"] // num_cpus)
    if actors < 1:
        raise InputError(
            f"actors={actors}: the cluster has {resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs, "
            f"and an actor is to have {num_cpus:g} and {num_gpus:g}: ask for less, or start more machines"
        )
    done = dataset.map_batches(
        _Adding,
        fn_constructor_args=(index, to_document),
        batch_size=BATCH_DOCUMENTS,
        batch_format="pyarrow",
        # From one upwards, so that reading does not wait for CPUs that idle actors hold.
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )
    return with_warning(sum((_report(row) for row in done.iter_rows()), IndexReport()))


def _add_here(index: Index, dataset: Dataset, to_document: Callable[[Row], Document]) -> IndexReport:
    batches: Iterable[Any] = dataset.iter_batches(batch_size=BATCH_DOCUMENTS, batch_format="pyarrow")
    return with_warning(sum((_add(index, map(to_document, batch.to_pylist())) for batch in batches), IndexReport()))


def _add(index: Index, documents: Iterable[Document]) -> IndexReport:
    with warnings.catch_warnings():
        # One warning at the end, for all batches.
        warnings.simplefilter("ignore", EmptyDocumentWarning)
        return index.add(documents)


def _report(row: Row) -> IndexReport:
    if row["error"]:
        error = pickle.loads(row["error"])  # noqa: S301 - an actor of ours wrote it, by the way that Ray itself takes
        error.add_note("What was written before stays; the same call again continues from there.")
        raise error
    fields = json.loads(row["report"])
    return IndexReport(**{**fields, "skipped": tuple(fields["skipped"]), "refused": tuple(fields["refused"])})


class _Adding:
    """An actor: one index of its own."""

    def __init__(self, index: Index, to_document: Callable[[Row], Document]) -> None:
        self._index = index
        self._index.progress = False
        self._to_document = to_document

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        try:
            report = _add(self._index, map(self._to_document, batch.to_pylist()))
        except SituateError as error:
            # Ray keeps only the text of an actor's error: callers need its class to catch it.
            return {"report": [""], "error": [pickle.dumps(error)]}
        return {"report": [json.dumps(asdict(report))], "error": [b""]}
