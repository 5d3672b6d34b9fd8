"""What an embedder sends to its model, as text for debugging."""

from __future__ import annotations

from typing import TYPE_CHECKING

from situate.embedders.models.families import LIBRARY_LATE, Family
from situate.embedders.models.prompts import PromptedFamily
from situate.embedders.models.resolve import SAFE, ResolvedModel
from situate.embedders.text.reading import pooled_ranges
from situate.embedders.types import SpanEncoder, SpanText
from situate.errors import ConventionError, ModelError, ModelNotFoundError

if TYPE_CHECKING:
    from situate.embedders.embedder import Embedder
    from situate.embedders.profile import ModelProfile

_TEXT = "⟨text⟩"
_CHUNK = "⟨chunk⟩"
#: The labels of a record's fields, in the order of the lines.
_FIELDS = (
    ("query", "query instruction"),
    ("document", "document instruction"),
    ("pooling", "pooling"),
    ("normalize", "norm"),
    ("similarity", "similarity"),
    ("max_tokens", "length"),
    ("library", "modules"),
)
#: The text whose tokens are shown.
EXAMPLE = "an example"


def described(embedder: Embedder, profile: ModelProfile) -> str:
    """Lines on the model and its files, then on the text it reads for a query, a document and a chunk."""
    refusal = ""
    resolved: ResolvedModel | None = None
    encoder: SpanEncoder | None = None
    asked: SpanEncoder | None = None
    try:
        resolved = profile.resolved
    except ModelNotFoundError as error:
        family, refusal = profile.record, str(error)
    else:
        family = profile.family
        try:
            encoder = embedder.encoder
            asked = encoder if embedder.querier is embedder else embedder.querier.encoder
        except ModelError as error:
            refusal = str(error)
    queries = family if embedder.querier is embedder else embedder.querier.family
    files = "its files are not here" if refusal else "served elsewhere"
    if resolved is not None:
        files = f"{resolved.source}: {resolved.path}"
    late = family.late or (LIBRARY_LATE if refusal and family.library else "")
    lines = [
        f"model       {embedder.model if resolved is None else resolved.id} ({files})",
        f"family      {family.name}" + (f" ({family.source})" if family.source else ""),
        f"sources     {_sources(family)}",
        f"vectors     {'' if encoder is None else f'{embedder.dimension} numbers, '}{_vectors(family)}",
        f"reads       {_lengths(embedder, family, encoder)}",
        *([] if embedder.querier is embedder else [f"query model {embedder.querier.model}"]),
        f"query       {_shown(queries.query_text(_TEXT))}",
        *_tokens(asked, queries.query_text(EXAMPLE)),
        f"document    {_shown(family.document_text(_TEXT))}",
        *_tokens(encoder, family.document_text(EXAMPLE)),
        f"pooled      {_pooled(family)}",
        f"chunks      {_scheme(embedder)}",
        f"late        {'not suited: ' + late if late else 'suited'}",
    ]
    if family.dimensions:
        lines.append(f"dimensions  may be cut to {family.cuts_of(None if encoder is None else encoder.dimension)}")
    if refusal:
        lines.append(f"not run     {refusal}")
    lines += [f"runs        {line}" for line in _runs(encoder, family, resolved)]
    lines += [f"changed     {line}" for line in _changes(embedder, encoder)]
    if family.note:
        lines.append(f"note        {family.note}")
    if family.unconfirmed:
        lines.append(f"unconfirmed {family.unconfirmed}")
    lines += [f"assumed     {line}" for line in family.assumed]
    return "\n".join(lines)


def _sources(family: Family) -> str:
    """The conventions of each source, the one that rules first."""
    named = [f"{source}: {', '.join(called for name, called in _FIELDS if name in f)}" for source, f in family.sources]
    rest = "none" if family.name == "unknown" else "the record"
    return "; ".join([*reversed(named), f"{rest}: the rest" if named else rest])


def _lengths(embedder: Embedder, family: Family, encoder: SpanEncoder | None) -> str:
    unknown = "a number of tokens that is not known: give max_tokens="
    if encoder is None:
        most, trained = family.max_tokens, family.trained_tokens or family.max_tokens
        return unknown if most is None else f"up to {most} tokens, trained on {trained}"
    try:
        return f"up to {embedder.max_tokens} tokens, trained on {embedder.trained_tokens}"
    except ConventionError:
        return unknown


def _shown(text: SpanText) -> str:
    return repr(text.text)


def _tokens(encoder: SpanEncoder | None, written: SpanText) -> list[str]:
    """The tokens and ids of an example, as the encoder would send them: what is pooled stands between ⟦ and ⟧."""
    from situate.embedders.local.encoder import Encoder

    if not isinstance(encoder, Encoder):
        return []
    try:
        plan, words = encoder.read_plan(written)
    except ModelError as error:
        return [f"            (its tokens cannot be shown: {error})"]
    shown = [list(sequence) for sequence in words]
    for part in pooled_ranges(plan.spans[0], encoder.pooling):
        shown[part.sequence][part.start] = "⟦" + shown[part.sequence][part.start]
        shown[part.sequence][part.end - 1] += "⟧"
    lines = []
    for tokens, ids in zip(shown, plan.sequences, strict=True):
        lines += [f"            {' '.join(tokens)}", f"            {' '.join(map(str, ids.tolist()))}"]
    return lines


def _changes(embedder: Embedder, encoder: SpanEncoder | None) -> list[str]:
    """Where the run differs from the model's folder."""
    from situate.embedders.local.encoder import Encoder

    if not isinstance(encoder, Encoder):
        return []
    lines = []
    if encoder.layers is not None:
        lines.append(f"the first {encoder.layers} of its layers")
    if encoder.mean_layers:
        lines.append(f"the mean of the token vectors behind its layers {', '.join(map(str, encoder.mean_layers))}")
    for role, name in (("documents", embedder.adapter), ("queries", embedder.query_adapter)):
        if name is not None:
            lines.append(f"{role} with the adapter {name!r}")
    if encoder.bidirectional:
        lines.append("attention that looks both ways")
    if encoder.prepend is not None:
        lines.append(f"the last token before the text, behind layers {encoder.prepend.first} to {encoder.prepend.last}")
    if encoder.routing_weight:
        lines.append(f"the experts' weights behind the hidden state, weighted {encoder.routing_weight:g}")
    if encoder.weights is not None:
        lines.append(f"weights of linear layers in {encoder.weights.removeprefix('int')} bits")
    if encoder.token_heads:
        lines.append("token vectors and weights of words by its own heads")
    if encoder.extension is not None:
        lines.append(f"positions extended to {encoder.max_tokens} tokens ({encoder.extension.method!r})")
    return lines


def _runs(encoder: SpanEncoder | None, family: Family, resolved: ResolvedModel | None) -> list[str]:
    """Where the run is more than a plain pass over the tokens."""
    from situate.embedders.library.encoder import LibraryEncoder

    lines = []
    if isinstance(encoder, LibraryEncoder):
        why = family.library or "this encoder was given"
        options = [f"{role} {name}={value}" for role, given in encoder.options.items() for name, value in given.items()]
        lines.append(f"whole, by sentence-transformers: {why}" + (f" ({', '.join(options)})" if options else ""))
    own = {} if resolved is None else resolved.config.get("auto_map") or {}
    if own and getattr(encoder, "load_options", SAFE).trust_remote_code:
        lines.append(f"its repository's own code ({own.get('AutoModel', 'its modules')})")
    return lines


def _vectors(family: Family) -> str:
    return f"{'norm 1' if family.normalize else 'not normalised'}, compared by {family.similarity}"


def _pooled(family: Family) -> str:
    if family.library:
        return "by the model's own modules"
    if isinstance(family, PromptedFamily):
        return "the second copy's tokens" if family.prompts.echoes else "the answer's token, of each prompt"
    what = {
        "mean": "the mean of all tokens",
        "cls": "the first token",
        "last": "the last token",
        "weighted_mean": "the mean of all tokens, with larger weights for later ones",
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
