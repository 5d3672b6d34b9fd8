"""What an embedder will send to its model, for people who debug it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.chunkers.errors import ConventionError, ModelError
from situate.embedders._pooling import pooled_parts
from situate.embedders.families import Family
from situate.embedders.models import ResolvedModel
from situate.embedders.types import SpanText

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder

_TEXT = "⟨text⟩"
_CHUNK = "⟨chunk⟩"
#: Read as a text where tokens are shown.
EXAMPLE = "an example"


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
        *_tokens(embedder, family.query_text(EXAMPLE)),
        f"document    {_shown(family.document_text(_TEXT))}",
        *_tokens(embedder, family.document_text(EXAMPLE)),
        f"pooled      {_pooled(family)}",
        f"chunks      {_scheme(embedder)}",
        f"late        {'suited' if not family.late else 'not suited: ' + family.late}",
    ]
    if family.dimensions:
        lines.append(f"dimensions  may be cut to {family.cuts}")
    runs = _runs(embedder)
    if runs:
        lines.append(f"runs        {runs}")
    lines += [f"changed     {line}" for line in _changes(embedder)]
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


def _tokens(embedder: Embedder, written: SpanText) -> list[str]:
    """The tokens and ids of an example, as the encoder would send them: what is pooled stands between ⟦ and ⟧."""
    from situate.embedders.encoder import Encoder

    encoder = embedder.encoder
    if not isinstance(encoder, Encoder):
        return []
    try:
        reading, words = encoder.reading(written)
    except ModelError as error:
        return [f"            (its tokens cannot be shown: {error})"]
    shown = [list(sequence) for sequence in words]
    for part in pooled_parts(reading.spans[0], encoder.pooling):
        shown[part.sequence][part.start] = "⟦" + shown[part.sequence][part.start]
        shown[part.sequence][part.end - 1] += "⟧"
    lines = []
    for tokens, ids in zip(shown, reading.sequences, strict=True):
        lines += [f"            {' '.join(tokens)}", f"            {' '.join(map(str, ids.tolist()))}"]
    return lines


def _changes(embedder: Embedder) -> list[str]:
    """What of the model is not run as its folder says."""
    from situate.embedders.encoder import Encoder

    encoder = embedder.encoder
    if not isinstance(encoder, Encoder):
        return []
    lines = []
    if encoder.layers is not None:
        lines.append(f"the first {encoder.layers} of its layers")
    for role, name in (("documents", embedder.adapter), ("queries", embedder.query_adapter)):
        if name is not None:
            lines.append(f"{role} with the adapter {name!r}")
    if encoder.extension is not None:
        lines.append(f"positions extended to {encoder.max_tokens} tokens ({encoder.extension.method!r})")
    return lines


def _runs(embedder: Embedder) -> str:
    from situate.embedders.library_encoder import LibraryEncoder

    encoder, family = embedder.encoder, embedder.family
    if not isinstance(encoder, LibraryEncoder):
        return ""
    why = family.library or "this encoder was asked for"
    options = [f"{role} {name}={value}" for role, told in encoder.options.items() for name, value in told.items()]
    return f"whole, by sentence-transformers: {why}" + (f" ({', '.join(options)})" if options else "")


def _vectors(family: Family) -> str:
    return f"{'norm 1' if family.normalize else 'not normalised'}, compared by {family.similarity}"


def _pooled(family: Family) -> str:
    what = {
        "mean": "the mean of all tokens",
        "cls": "the first token",
        "last": "the last token",
        "weighted_mean": "the mean of all tokens, later ones weighing more",
        "max": "the maximum of all tokens",
        "mean_sqrt_len": "the sum of all tokens over the root of their number",
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
