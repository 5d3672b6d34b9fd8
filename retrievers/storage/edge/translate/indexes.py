"""Payload indexes: qdrant-client's models <-> the engine's. One row per kind of index."""

from __future__ import annotations

from typing import Any, NamedTuple

import qdrant_edge as edge
from qdrant_client import models

from situate.errors import InputError
from situate.retrievers.storage.edge.translate.config import MEMORY, _by_value, pick

LANGUAGES = _by_value(models.Language, edge.Language)
SNOWBALL_LANGUAGES = _by_value(models.SnowballLanguage, edge.SnowballLanguage)
TOKENIZERS = _by_value(models.TokenizerType, edge.TokenizerType)


class _Kind(NamedTuple):
    model: Any
    engine: Any
    schema_type: Any
    fields: tuple[str, ...]


_COMMON = ("on_disk", "enable_hnsw", "nested")
_TEXT = ("min_token_len", "max_token_len", "lowercase", "ascii_folding", "phrase_matching")
_KINDS: dict[str, _Kind] = {
    "keyword": _Kind(
        models.KeywordIndexParams,
        edge.KeywordIndexParams,
        edge.PayloadSchemaType.Keyword,
        (*_COMMON, "is_tenant", "prefix"),
    ),
    "integer": _Kind(
        models.IntegerIndexParams,
        edge.IntegerIndexParams,
        edge.PayloadSchemaType.Integer,
        (*_COMMON, "lookup", "range", "is_principal"),
    ),
    "float": _Kind(
        models.FloatIndexParams, edge.FloatIndexParams, edge.PayloadSchemaType.Float, (*_COMMON, "is_principal")
    ),
    "geo": _Kind(models.GeoIndexParams, edge.GeoIndexParams, edge.PayloadSchemaType.Geo, _COMMON),
    "text": _Kind(models.TextIndexParams, edge.TextIndexParams, edge.PayloadSchemaType.Text, (*_COMMON, *_TEXT)),
    "bool": _Kind(models.BoolIndexParams, edge.BoolIndexParams, edge.PayloadSchemaType.Bool, _COMMON),
    "datetime": _Kind(
        models.DatetimeIndexParams,
        edge.DatetimeIndexParams,
        edge.PayloadSchemaType.Datetime,
        (*_COMMON, "is_principal"),
    ),
    "uuid": _Kind(models.UuidIndexParams, edge.UuidIndexParams, edge.PayloadSchemaType.Uuid, (*_COMMON, "is_tenant")),
}
_BY_MODEL = {kind.model: kind for kind in _KINDS.values()}
_BY_ENGINE_PARAMS = {kind.engine: (name, kind) for name, kind in _KINDS.items()}
_NAME_BY_SCHEMA_TYPE = {repr(kind.schema_type): name for name, kind in _KINDS.items()}


def edge_index(schema: Any, field_name: str) -> Any:
    """The engine's form of an index: a bare type, or its parameters."""
    if isinstance(schema, str):  # PayloadSchemaType is one, too
        name = getattr(schema, "value", schema)
        if name not in _KINDS:
            raise InputError(f"an index on {field_name!r} cannot be {name!r}: one of {', '.join(_KINDS)}")
        return _KINDS[name].schema_type
    if isinstance(schema, dict):
        kind = _KINDS.get(str(getattr(schema.get("type"), "value", schema.get("type"))))
        schema = schema if kind is None else kind.model(**schema)
    kind = _BY_MODEL.get(type(schema))
    if kind is None:
        raise InputError(f"an index on {field_name!r} needs a PayloadSchemaType or index parameters, not {schema!r}")
    values: dict[str, Any] = {name: getattr(schema, name) for name in kind.fields}
    values["memory"] = pick(MEMORY, schema.memory, "memory")
    if kind.model is models.TextIndexParams:
        values.update(_edge_text(schema))
    return kind.engine(**values)


def _edge_text(schema: models.TextIndexParams) -> dict[str, Any]:
    stemmer: Any = schema.stemmer
    if isinstance(stemmer, models.SnowballParams):
        stemmer = edge.SnowballParams(SNOWBALL_LANGUAGES[stemmer.language])
    elif stemmer is not None:
        stemmer = edge.DisabledStemmer()
    stopwords: Any = schema.stopwords
    if isinstance(stopwords, models.StopwordsSet):
        stopwords = edge.StopwordsSet(
            languages={LANGUAGES[language] for language in stopwords.languages or []},
            custom=set(stopwords.custom or []),
        )
    elif stopwords is not None:
        stopwords = LANGUAGES[stopwords]
    scoring: Any = schema.scoring
    if isinstance(scoring, models.TextScoringParams):
        scoring = edge.TextScoringParams()
    return {
        "tokenizer": pick(TOKENIZERS, schema.tokenizer, "tokenizer"),
        "stemmer": stemmer,
        "stopwords": stopwords,
        "scoring": scoring,
    }


def model_index(info: edge.PayloadIndexInfo) -> models.PayloadIndexInfo:
    """An index as qdrant-client reports it."""
    name = _NAME_BY_SCHEMA_TYPE[repr(info.data_type)]
    return models.PayloadIndexInfo(
        data_type=models.PayloadSchemaType(name),
        params=None if info.params is None else _model_params(info.params),
        points=info.points,
    )


def _model_params(params: Any) -> Any:
    name, kind = _BY_ENGINE_PARAMS[type(params)]
    values: dict[str, Any] = {field: getattr(params, field) for field in kind.fields}
    values["type"] = name
    values["memory"] = _reverse(MEMORY, params.memory)
    if kind.model is models.TextIndexParams:
        stemmer, stopwords = params.stemmer, params.stopwords
        if isinstance(stemmer, edge.SnowballParams):
            stemmer = models.SnowballParams(
                type=models.Snowball.SNOWBALL, language=_reverse(SNOWBALL_LANGUAGES, stemmer.language)
            )
        elif stemmer is not None:
            stemmer = models.DisabledStemmerParams(type=models.NoStemmer.NONE)
        if isinstance(stopwords, edge.StopwordsSet):
            stopwords = models.StopwordsSet(
                languages=[_reverse(LANGUAGES, language) for language in stopwords.languages or ()] or None,
                custom=sorted(stopwords.custom or ()) or None,
            )
        elif stopwords is not None:
            stopwords = _reverse(LANGUAGES, stopwords)
        values["tokenizer"] = _reverse(TOKENIZERS, params.tokenizer)
        values["stemmer"] = stemmer
        values["stopwords"] = stopwords
        values["scoring"] = None if params.scoring is None else True
    return kind.model(**values)


def _reverse(table: dict[Any, Any], value: Any) -> Any:
    """The qdrant-client member for the engine's; engine members compare by their repr, being unhashable."""
    return None if value is None else next(key for key, member in table.items() if repr(member) == repr(value))
