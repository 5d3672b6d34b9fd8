"""What an embedder will send to its model, for people who debug it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers.errors import ConventionError
from situate.embedders.families import Family
from situate.embedders.models import ResolvedModel
from situate.embedders.types import SpanText

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

_TEXT = "⟨text⟩"
_CHUNK = "⟨chunk⟩"


def described(embedder: Embedder, resolved: ResolvedModel | None) -> str:
    """Some lines: the model and its files, then what is read for a query, a document and a chunk."""
    family = embedder.family
    files = "served elsewhere" if resolved is None else f"{resolved.source}: {resolved.path}"
    lines = [
        f"model       {embedder.model if resolved is None else resolved.id} ({files})",
        f"family      {family.name}" + (f" ({family.source})" if family.source else ""),
        f"vectors     {embedder.dimension} numbers, {_vectors(family)}",
        f"reads       {_lengths(embedder)}",
        f"query       {_shown(family.query_text(_TEXT))}",
        f"document    {_shown(family.document_text(_TEXT))}",
        f"pooled      {_pooled(family)}",
        f"chunks      {_scheme(embedder)}",
        f"late        {'suited' if not family.late else 'not suited: ' + family.late}",
    ]
    if family.dimensions:
        lines.append(f"dimensions  may be cut to {', '.join(map(str, family.dimensions))}")
    if family.note:
        lines.append(f"note        {family.note}")
    lines += [f"assumed     {line}" for line in family.assumed]
    return "\n".join(lines)


def _lengths(embedder: Embedder) -> str:
    try:
        return f"up to {embedder.max_tokens} tokens, trained on {embedder.trained_tokens}"
    except ConventionError:
        return "a number of tokens that is not known: give max_tokens="


def _shown(text: SpanText) -> str:
    return repr(text.text)


def _vectors(family: Family) -> str:
    return f"{'norm 1' if family.normalize else 'not normalised'}, compared by {family.similarity}"


def _pooled(family: Family) -> str:
    what = {
        "mean": "the mean of all tokens",
        "cls": "the first token",
        "last": "the last token",
        "weighted_mean": "the mean of all tokens, later ones weighing more",
        "max": "the maximum of all tokens",
    }[family.pooling]
    return what if family.pool_instruction else f"{what}, without the instruction's"


def _scheme(embedder: Embedder) -> str:
    scheme = embedder.scheme
    lead = " + ".join(f"⟨{name}⟩" for name in scheme.context)
    alone = f"{lead} + {_CHUNK}" if lead else _CHUNK
    parts = []
    if scheme.late:
        window = f"{scheme.window} tokens" if scheme.window else "the length it was trained on"
        parts.append(f"late chunking, windows of {window}")
    if scheme.situated:
        parts.append(f"{_CHUNK} read with {scheme.situated} characters on each side")
    if not parts:
        parts.append(f"{alone} alone")
    elif scheme.residual:
        parts.append(f"mixed {scheme.residual:g} with {alone} alone")
    if scheme.neighbours:
        parts.append(f"plus {scheme.neighbours:g} of both neighbours")
    return ", ".join(parts)
