"""The rest of the interface: each row of the translation tables, indexes, configuration, aliases, migration."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from situate.errors import InputError, StorageError
from situate.retrievers.storage.edge import EdgeClient
from situate.retrievers.storage.edge.translate import (
    config as translate_config,
    filters as translate_filters,
    indexes as translate_indexes,
    queries as translate_queries,
)

COSINE = models.Distance.COSINE
PARAMS = models.VectorParams(size=4, distance=COSINE)


def filled(client: QdrantClient, name: str, **config: Any) -> None:
    client.create_collection(name, config.pop("vectors_config", PARAMS), **config)
    client.upsert(
        name,
        [
            models.PointStruct(
                id=i,
                vector=[1.0, i / 10, 0.5, -1.0],
                payload={
                    "number": i,
                    "word": ["red", "green", "blue"][i % 3],
                    "text": f"the quick fox number {i}",
                    "date": f"2024-01-{i + 1:02d}T00:00:00Z",
                    "place": {"lon": 10.0 + i, "lat": 50.0},
                    "flag": i % 2 == 0,
                    "uuid": f"00000000-0000-4000-8000-0000000000{i:02d}",
                },
            )
            for i in range(12)
        ],
    )


def test_groups_are_filled(client: QdrantClient, name: str) -> None:
    """A group whose hits stand far apart has all that it can hold, as from a server."""
    client.create_collection(name, models.VectorParams(size=2, distance=models.Distance.DOT))
    for start in range(0, 3000, 1000):
        client.upsert(
            name,
            [
                models.PointStruct(
                    id=i, vector=[float(3000 - i), 0.0], payload={"g": "rare" if i in (0, 1500, 2999) else f"g{i % 5}"}
                )
                for i in range(start, start + 1000)
            ],
        )
    for stages in (
        {"query": [1.0, 0.0]},
        {"query": [1.0, 0.0], "prefetch": models.Prefetch(query=[1.0, 0.0], limit=5)},
    ):
        groups = client.query_points_groups(name, "g", limit=3, group_size=3, **stages).groups
        assert [group.id for group in groups] == ["rare", "g1", "g2"]
        assert [hit.id for hit in groups[0].hits] == [0, 1500, 2999]
        assert [hit.id for hit in groups[1].hits] == [1, 6, 11]
    wide = client.query_points_groups(name, "g", [1.0, 0.0], limit=10, group_size=4).groups
    assert sorted(len(group.hits) for group in wide) == [3, 4, 4, 4, 4, 4]
    client.delete_collection(name)


@pytest.mark.parametrize("diversity", [None, 0.0, 0.3, 0.9, 1.0])
def test_sparse_mmr(edge: EdgeClient, diversity: float | None) -> None:
    """As in qdrant-client's local mode, which follows a server."""
    rng = np.random.default_rng(0)
    points = [
        models.PointStruct(
            id=i,
            vector={
                "s": models.SparseVector(
                    indices=rng.choice(30, 8, replace=False).tolist(), values=rng.random(8).round(3).tolist()
                )
            },
            payload={"i": i},
        )
        for i in range(100)
    ]
    local = QdrantClient(":memory:")
    for client in (edge, local):
        client.create_collection("c", sparse_vectors_config={"s": models.SparseVectorParams()})
        client.upsert("c", points)
    vector = models.SparseVector(indices=list(range(10)), values=[1.0] * 10)
    for nearest in (vector, 7):
        query = models.NearestQuery(nearest=nearest, mmr=models.Mmr(diversity=diversity, candidates_limit=40))
        for window in ({"limit": 8}, {"limit": 5, "offset": 3}):
            answers = [
                client.query_points("c", query, using="s", with_vectors=True, **window).points
                for client in (edge, local)
            ]
            assert [p.id for p in answers[0]] == [p.id for p in answers[1]]
            assert [p.score for p in answers[0]] == pytest.approx([p.score for p in answers[1]], rel=1e-5)
            assert [p.payload for p in answers[0]] == [p.payload for p in answers[1]]
    local.close()
    with pytest.raises(InputError, match="sparse"):
        edge.query_batch_points("c", [models.QueryRequest(query=query, using="s")])


def test_a_formula_without_a_value(edge: EdgeClient) -> None:
    """An InputError, in a query and in a batch."""
    filled(edge, "c")
    query = models.FormulaQuery(formula=models.SumExpression(sum=["$score", "nowhere"]))
    stage = models.Prefetch(query=[1.0, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match="defaults"):
        edge.query_points("c", query, prefetch=stage)
    with pytest.raises(InputError, match="defaults"):
        edge.query_batch_points("c", [models.QueryRequest(query=query, prefetch=stage)])
    beyond = models.FormulaQuery(formula=models.ExpExpression(exp=1e9))
    with pytest.raises(InputError, match="or the formula produced a non-finite number"):
        edge.query_points("c", beyond, prefetch=models.Prefetch(query=[1.0, 2, 3, 4]))
    given = models.FormulaQuery(formula=query.formula, defaults={"nowhere": 1.0})
    assert len(edge.query_points("c", given, prefetch=stage).points) == 10


def test_facets_of_lists(edge: EdgeClient) -> None:
    """Of values with the same count, the first in order, however many there are."""
    rng = np.random.default_rng(0)
    words = [f"{rng.integers(1 << 60):015x}" for _ in range(3000)]
    edge.create_collection("c", PARAMS)
    edge.create_payload_index("c", "words", models.PayloadSchemaType.KEYWORD)
    edge.upsert(
        "c",
        [models.PointStruct(id=i, vector=[1.0] * 4, payload={"words": words[3 * i : 3 * i + 3]}) for i in range(1000)],
    )
    for limit in (10, 37):
        assert [h.value for h in edge.facet("c", "words", limit=limit).hits] == sorted(words)[:limit]


def test_random_points_leave_none_out(edge: EdgeClient) -> None:
    filled(edge, "c")
    sample = models.SampleQuery(sample=models.Sample.RANDOM)
    assert len(edge.query_points("c", sample, limit=100, offset=5).points) == 12
    request = models.QueryRequest(query=sample, limit=100, offset=5)
    assert len(edge.query_batch_points("c", [request])[0].points) == 12


def test_a_key_that_is_no_path(edge: EdgeClient) -> None:
    filled(edge, "c")
    for key in ("", "a..b", "a[", "a[-1]"):
        with pytest.raises(InputError, match="path"):
            edge.set_payload("c", {"x": 1}, [1], key=key)


def test_the_matrix_of_one_point(client: QdrantClient, name: str) -> None:
    filled(client, name)
    one = models.Filter(must=[models.HasIdCondition(has_id=[1])])
    assert client.search_matrix_offsets(name, query_filter=one).ids == []
    assert client.search_matrix_pairs(name, query_filter=one).pairs == []
    client.delete_collection(name)


def test_payload_values(edge: EdgeClient) -> None:
    """In every form: bytes as text, integers whole or refused by name, tuples as lists."""
    edge.create_collection("c", PARAMS)
    values = {
        "b": b"abc",
        "t": (1, (2,)),
        "big": (1 << 64) - 1,
        "small": -(1 << 63),
        "flag": True,
        "deep": {"x": [b"y"]},
    }
    stored = {"b": "abc", "t": [1, [2]], "big": (1 << 64) - 1, "small": -(1 << 63), "flag": True, "deep": {"x": ["y"]}}
    edge.upsert("c", [models.PointStruct(id=i, vector=[1.0] * 4, payload=values if i == 1 else {}) for i in (1, 2, 3)])
    edge.set_payload("c", values, [2])
    edge.overwrite_payload("c", values, [3])
    assert [r.payload for r in edge.retrieve("c", [1, 2, 3])] == [stored] * 3
    for wrong in (1 << 64, -(1 << 63) - 1, [{"x": 1 << 70}]):
        for write in (
            lambda wrong=wrong: edge.upsert("c", [models.PointStruct(id=1, vector=[1.0] * 4, payload={"n": wrong})]),
            lambda wrong=wrong: edge.set_payload("c", {"n": wrong}, [1]),
        ):
            with pytest.raises(InputError, match=r"'n'.* 64 bits"):
                write()


# -- tables are complete


def test_every_condition_match_expression_and_query_has_a_row() -> None:
    assert set(get_args(models.Condition)) == set(translate_filters._CONDITIONS)
    assert set(get_args(models.Match)) == set(translate_filters._MATCHES)
    field = set(models.FieldCondition.model_fields) - {"key"}
    assert field == set(translate_filters._FIELD_PARTS)
    plain = {float, int, str}
    expressions = {e for e in get_args(models.Expression) if hasattr(e, "model_fields")}
    assert expressions | plain == set(translate_queries._EXPRESSIONS)
    assert set(get_args(models.Query)) == set(translate_queries._QUERIES)


@pytest.mark.parametrize(
    ("table", "members"),
    [
        (translate_config.DISTANCES, models.Distance),
        (translate_config.DATATYPES, models.Datatype),
        (translate_config.STORAGE_DATATYPES, models.VectorStorageDatatype),
        (translate_config.MEMORY, models.Memory),
        (translate_config.MODIFIERS, models.Modifier),
        (translate_config.COMPRESSION, models.CompressionRatio),
        (translate_config.SCALAR_TYPES, models.ScalarType),
        (translate_config.COMPARATORS, models.MultiVectorComparator),
        (translate_config.BINARY_ENCODINGS, models.BinaryQuantizationEncoding),
        (translate_config.BINARY_QUERY_ENCODINGS, models.BinaryQuantizationQueryEncoding),
        (translate_config.TURBO_BITS, models.TurboQuantBitSize),
        (translate_indexes.LANGUAGES, models.Language),
        (translate_indexes.SNOWBALL_LANGUAGES, models.SnowballLanguage),
        (translate_indexes.TOKENIZERS, models.TokenizerType),
    ],
)
def test_enum_tables_are_complete(table: dict[Any, Any], members: Any) -> None:
    assert set(table) == set(members)
    assert len({repr(v) for v in table.values()}) == len(table)
    for member, engine in table.items():
        spelled = repr(engine).rsplit(".", 1)[-1].replace("_", "").lower()
        assert spelled == str(member.value).replace("_", "").replace(".", "").lower()


# -- expressions: each against its value

SCORE = 1.0
EXPRESSIONS: list[tuple[Any, float]] = [
    (2.5, 2.5),
    ("number", 4.0),
    (models.FieldCondition(key="number", match=models.MatchValue(value=4)), 1.0),
    (models.IsEmptyCondition(is_empty=models.PayloadField(key="missing")), 1.0),
    (models.IsNullCondition(is_null=models.PayloadField(key="number")), 0.0),
    (models.HasIdCondition(has_id=[4]), 1.0),
    (models.HasVectorCondition(has_vector=""), 1.0),
    (models.Filter(must_not=[models.HasIdCondition(has_id=[4])]), 0.0),
    (models.MultExpression(mult=[2.0, "number"]), 8.0),
    (models.SumExpression(sum=[2.0, "number"]), 6.0),
    (models.MaxExpression(max=[2.0, "number"]), 4.0),
    (models.MinExpression(min=[2.0, "number"]), 2.0),
    (models.NegExpression(neg="number"), -4.0),
    (models.AbsExpression(abs=-3.0), 3.0),
    (models.DivExpression(div=models.DivParams(left="number", right=8.0)), 0.5),
    (models.DivExpression(div=models.DivParams(left="number", right=0.0, by_zero_default=7.0)), 7.0),
    (models.SqrtExpression(sqrt="number"), 2.0),
    (models.PowExpression(pow=models.PowParams(base="number", exponent=3.0)), 64.0),
    (models.ExpExpression(exp=1.0), float(np.e)),
    (models.Log10Expression(log10=100.0), 2.0),
    (models.LnExpression(ln=float(np.e)), 1.0),
    (models.AcoshExpression(acosh=2.0), float(np.arccosh(2.0))),
    (models.LinDecayExpression(lin_decay=models.DecayParamsExpression(x="number", target=6.0, scale=4.0)), 0.75),
    (models.ExpDecayExpression(exp_decay=models.DecayParamsExpression(x="number", target=6.0, scale=2.0)), 0.5),
    (models.GaussDecayExpression(gauss_decay=models.DecayParamsExpression(x="number", target=6.0, scale=2.0)), 0.5),
    (
        models.SumExpression(
            sum=[
                models.DatetimeKeyExpression(datetime_key="date"),
                models.NegExpression(neg=models.DatetimeExpression(datetime="2024-01-01T00:00:00Z")),
            ]
        ),
        4 * 86_400.0,
    ),
    (
        models.GeoDistance(
            geo_distance=models.GeoDistanceParams(origin=models.GeoPoint(lon=14.0, lat=51.0), to="place")
        ),
        111_195.0,
    ),
]


@pytest.mark.parametrize(("expression", "value"), EXPRESSIONS, ids=[type(e).__name__ for e, _ in EXPRESSIONS])
def test_expressions(edge: EdgeClient, expression: Any, value: float) -> None:
    filled(edge, "c")
    points = edge.query_points(
        "c",
        models.FormulaQuery(formula=models.SumExpression(sum=[expression])),
        prefetch=models.Prefetch(query=[1.0, 0, 0, 0], filter=models.Filter(must=[models.HasIdCondition(has_id=[4])])),
    ).points
    assert [p.id for p in points] == [4]
    assert points[0].score == pytest.approx(value, rel=2e-3)


# -- conditions that need an index, or that local mode lacks


def test_conditions_over_indexes(edge: EdgeClient) -> None:
    filled(edge, "c")
    text = models.TextIndexParams(
        type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, phrase_matching=True, lowercase=True
    )
    keyword = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, prefix=True)
    edge.create_payload_index("c", "text", text)
    edge.create_payload_index("c", "word", keyword)
    edge.create_payload_index("c", "place", models.PayloadSchemaType.GEO)

    def ids(**parts: Any) -> set[Any]:
        condition = models.FieldCondition(**parts)
        return {r.id for r in edge.scroll("c", scroll_filter=models.Filter(must=condition), limit=50)[0]}

    assert ids(key="text", match=models.MatchText(text="FOX 7")) == {7}
    assert ids(key="text", match=models.MatchTextAny(text_any="7 8 nothing")) == {7, 8}
    assert ids(key="text", match=models.MatchPhrase(phrase="number 9")) == {9}
    assert ids(key="text", match=models.MatchPhrase(phrase="fox 9")) == set()
    assert ids(key="word", match=models.MatchPrefix(prefix="gr")) == {1, 4, 7, 10}
    assert ids(key="word", match=models.MatchSubstring(substring="lu")) == {2, 5, 8, 11}
    box = models.GeoBoundingBox(
        top_left=models.GeoPoint(lon=11.5, lat=51.0), bottom_right=models.GeoPoint(lon=13.5, lat=49.0)
    )
    assert ids(key="place", geo_bounding_box=box) == {2, 3}

    def ring(west: float, east: float) -> models.GeoLineString:
        corners = [(west, 49.0), (east, 49.0), (east, 51.0), (west, 51.0), (west, 49.0)]
        return models.GeoLineString(points=[models.GeoPoint(lon=x, lat=y) for x, y in corners])

    assert ids(key="place", geo_polygon=models.GeoPolygon(exterior=ring(9.5, 14.5))) == {0, 1, 2, 3, 4}
    holed = models.GeoPolygon(exterior=ring(9.5, 14.5), interiors=[ring(10.5, 12.5)])
    assert ids(key="place", geo_polygon=holed) == {0, 3, 4}
    assert ids(key="missing", is_empty=True) == set(range(12))
    assert ids(key="word", is_null=False) == set(range(12))
    halves = [
        {r.id for r in edge.scroll("c", scroll_filter=models.Filter(must=[slice_]), limit=50)[0]}
        for slice_ in (models.SliceCondition(slice=models.Slice(total=2, index=i)) for i in range(2))
    ]
    assert halves[0] | halves[1] == set(range(12))
    assert not halves[0] & halves[1]


def test_text_queries(edge: EdgeClient) -> None:
    filled(edge, "c")
    edge.create_payload_index("c", "text", models.TextIndexParams(type=models.TextIndexType.TEXT, scoring=True))
    assert edge.query_points("c", models.TextQuery(text="fox 7"), using="text").points[0].id == 7


def test_order_and_facets(edge: EdgeClient) -> None:
    filled(edge, "c")
    edge.create_payload_index("c", "number", models.PayloadSchemaType.INTEGER)
    edge.create_payload_index("c", "date", models.PayloadSchemaType.DATETIME)
    edge.create_payload_index("c", "word", models.PayloadSchemaType.KEYWORD)
    down = models.OrderBy(key="number", direction=models.Direction.DESC, start_from=5)
    records, following = edge.scroll("c", order_by=down, limit=3)
    assert [(r.id, r.order_value) for r in records] == [(5, 5), (4, 4), (3, 3)]
    assert following is None
    assert [p.id for p in edge.query_points("c", models.OrderByQuery(order_by="number"), limit=2).points] == [0, 1]
    since = models.OrderBy(key="date", start_from=dt.datetime(2024, 1, 10, tzinfo=dt.UTC))
    assert [r.id for r in edge.scroll("c", order_by=since, limit=2)[0]] == [9, 10]
    assert {h.value: h.count for h in edge.facet("c", "word").hits} == {"red": 4, "green": 4, "blue": 4}
    with pytest.raises(InputError):
        edge.scroll("c", order_by=down, offset=3)


def test_scrolling_in_pages(edge: EdgeClient) -> None:
    filled(edge, "c")
    seen: list[Any] = []
    offset: Any = None
    while True:
        records, offset = edge.scroll("c", limit=5, offset=offset, with_payload=["number"])
        seen += [r.payload for r in records]
        if offset is None:
            break
    assert seen == [{"number": i} for i in range(12)]


def test_what_is_returned(edge: EdgeClient) -> None:
    filled(edge, "c")
    include = models.PayloadSelectorInclude(include=["number"])
    exclude = models.PayloadSelectorExclude(exclude=["text", "date", "place", "flag", "uuid", "word"])
    for selector in (["number"], include, exclude):
        assert edge.retrieve("c", [3], with_payload=selector)[0].payload == {"number": 3}
        assert edge.query_points("c", 3, with_payload=selector, limit=1).points[0].payload == {"number": 4}
    assert edge.retrieve("c", [3], with_payload=False)[0].payload is None
    assert edge.query_points("c", [1.0, 0, 0, 0], limit=1).points[0].vector is None
    mmr = models.NearestQuery(nearest=[1.0, 0, 0, 0], mmr=models.Mmr(diversity=0.5))
    assert edge.query_points("c", mmr, limit=1).points[0].vector is None
    assert edge.query_batch_points("c", [models.QueryRequest(query=3)])[0].points[0].payload is None


def test_looking_vectors_up_elsewhere(edge: EdgeClient) -> None:
    filled(edge, "c")
    edge.create_collection("other", {"v": PARAMS})
    edge.upsert("other", [models.PointStruct(id=3, vector={"v": [1.0, 1.1, 0.5, -1.0]})])
    place = models.LookupLocation(collection="other", vector="v")
    assert edge.query_points("c", 3, lookup_from=place, limit=1).points[0].id == 11


def test_the_search_matrix(edge: EdgeClient) -> None:
    filled(edge, "c")
    pairs = edge.search_matrix_pairs("c", sample=50, limit=2).pairs
    assert len(pairs) == 24
    expected = {(i, h.id) for i in range(12) for h in edge.query_points("c", i, limit=2).points}
    assert len({(p.a, p.b) for p in pairs} & expected) >= 20  # neighbours at equal distance may change places
    offsets = edge.search_matrix_offsets("c", sample=50, limit=2)
    assert offsets.ids == list(range(12))
    assert len(offsets.scores) == len(offsets.offsets_row) == len(offsets.offsets_col) == 24


# -- indexes

INDEXES: dict[str, Any] = {
    "number": models.IntegerIndexParams(type="integer", lookup=True, range=False, is_principal=None, on_disk=True),
    "real": models.FloatIndexParams(type="float", is_principal=True),
    "word": models.KeywordIndexParams(type="keyword", is_tenant=True, enable_hnsw=False),
    "uuid": models.UuidIndexParams(type="uuid", is_tenant=True),
    "date": models.DatetimeIndexParams(type="datetime", is_principal=True),
    "place": models.GeoIndexParams(type="geo", on_disk=True),
    "flag": models.BoolIndexParams(type="bool", on_disk=False),
    "text": models.TextIndexParams(
        type="text",
        tokenizer="multilingual",
        min_token_len=2,
        max_token_len=20,
        lowercase=True,
        ascii_folding=True,
        phrase_matching=True,
        stopwords=models.StopwordsSet(languages=["english", "german"], custom=["foo"]),
        stemmer=models.SnowballParams(type="snowball", language="english"),
        memory=models.Memory.COLD,
    ),
}


def as_set(params: Any) -> dict[str, Any]:
    return {
        k: {n: sorted(v) for n, v in value.items() if v} if k == "stopwords" else value
        for k, value in params.model_dump(mode="json", exclude_none=True).items()
    }


def test_indexes_come_back_as_they_were_made(edge: EdgeClient) -> None:
    filled(edge, "c")
    for field, params in INDEXES.items():
        edge.create_payload_index("c", field, params)
    schema = edge.get_collection("c").payload_schema
    assert set(schema) == set(INDEXES)
    for field, params in INDEXES.items():
        assert schema[field].data_type == params.type.value
        assert as_set(schema[field].params) == as_set(params)
    edge.delete_payload_index("c", "text")
    assert "text" not in edge.get_collection("c").payload_schema
    for kind in models.PayloadSchemaType:
        edge.create_payload_index("c", f"field_{kind.value}", kind)
        assert edge.get_collection("c").payload_schema[f"field_{kind.value}"].data_type == kind


# -- configuration

QUANTIZATIONS = {
    "scalar": models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type="int8", quantile=0.99)),
    "product": models.ProductQuantization(product=models.ProductQuantizationConfig(compression="x4")),
    "binary": models.BinaryQuantization(
        binary=models.BinaryQuantizationConfig(encoding="two_bits", query_encoding="scalar8bits")
    ),
    "turbo": models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits="bits4")),
}


@pytest.mark.parametrize("quantization", QUANTIZATIONS.values(), ids=QUANTIZATIONS.keys())
def test_quantization(tmp_path: Path, quantization: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(1000, 64))
    with EdgeClient(tmp_path / "store", auto_optimize=False) as client:
        client.create_collection(
            "c",
            models.VectorParams(size=64, distance=COSINE),
            quantization_config=quantization,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10),
        )
        client.upload_collection("c", vectors, ids=range(1000))
        assert client.optimize("c")
        assert client.get_collection("c").config.quantization_config == quantization
        params = models.SearchParams(
            hnsw_ef=256, quantization=models.QuantizationSearchParams(rescore=True, oversampling=8.0)
        )
        hits = [client.query_points("c", vectors[i], limit=1, search_params=params).points[0].id for i in range(50)]
        assert hits == list(range(50))
    with EdgeClient(tmp_path / "store") as client:
        assert client.get_collection("c").config.quantization_config == quantization


@pytest.mark.parametrize("datatype", list(models.Datatype))
@pytest.mark.parametrize("distance", list(models.Distance))
def test_datatypes_and_distances(edge: EdgeClient, datatype: models.Datatype, distance: models.Distance) -> None:
    edge.create_collection("c", models.VectorParams(size=128, distance=distance, datatype=datatype))
    vectors = np.random.default_rng(0).integers(1, 200, size=(20, 128)).astype(float)
    edge.upload_collection("c", vectors, ids=range(20))
    best = {edge.query_points("c", vectors[i], limit=1).points[0].id == i for i in range(20)}
    assert distance == models.Distance.DOT or best == {True}


def test_payloads_are_read_ahead_by_default(tmp_path: Path) -> None:
    asked: dict[str, dict[str, Any]] = {
        "in_ram_mmap": {},
        "mmap": {"on_disk_payload": True},
        "mmap ": {"payload": models.PayloadStorageParams(memory=models.Memory.COLD)},
    }
    for kind, options in asked.items():
        with EdgeClient(tmp_path / kind) as client:
            client.create_collection("c", models.VectorParams(size=4, distance=models.Distance.DOT), **options)
        (file,) = (tmp_path / kind).rglob("segment.json")
        assert json.loads(file.read_text())["config"]["payload_storage_type"]["type"] == kind.strip()


def test_updating_a_collection(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        filled(client, "c", metadata={"a": 1}, sparse_vectors_config={"s": models.SparseVectorParams()})
        client.update_collection(
            "c",
            hnsw_config=models.HnswConfigDiff(m=24),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=77),
            vectors_config={"": models.VectorParamsDiff(on_disk=True)},
            sparse_vectors_config={"s": models.SparseVectorParams(index=models.SparseIndexParams(on_disk=True))},
            quantization_config=QUANTIZATIONS["scalar"],
            metadata={"b": 2, "a": None},
        )
        assert client.count("c").count == 12
        with pytest.raises(StorageError, match="ignore=True"):
            client.update_collection("c", quantization_config=models.Disabled.DISABLED)
        with pytest.raises(InputError):
            client.update_collection("c", vectors_config={"none": models.VectorParamsDiff(on_disk=True)})
        client.upsert("c", [models.PointStruct(id=100, vector=[1.0, 2, 3, 4])])
    with EdgeClient(tmp_path / "store") as client:
        config = client.get_collection("c").config
        assert config.hnsw_config.m == 24
        assert config.optimizer_config.indexing_threshold == 77
        assert isinstance(config.params.vectors, models.VectorParams)
        assert config.params.vectors.on_disk is True
        assert config.quantization_config == QUANTIZATIONS["scalar"]
        assert config.metadata == {"b": 2}
        assert client.count("c").count == 13


def test_vectors_that_are_added_later(tmp_path: Path) -> None:
    with EdgeClient(tmp_path / "store") as client:
        filled(client, "c")
        dense = models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=2, distance=models.Distance.DOT))
        sparse = models.SparseVectorNameConfig(sparse=models.SparseVectorConfig(modifier=models.Modifier.IDF))
        client.create_vector_name("c", "later", dense)
        client.create_vector_name("c", "words", sparse)
        with pytest.raises(InputError):
            client.create_vector_name("c", "later", dense)
        words = models.SparseVector(indices=[3], values=[1.0])
        client.update_vectors("c", [models.PointVectors(id=5, vector={"later": [1.0, 2.0], "words": words})])
    with EdgeClient(tmp_path / "store") as client:
        assert [p.id for p in client.query_points("c", [1.0, 1.0], using="later").points] == [5]
        assert [p.id for p in client.query_points("c", words, using="words").points] == [5]
        client.delete_vector_name("c", "later")
        with pytest.raises(InputError):
            client.query_points("c", [1.0, 1.0], using="later")
        with pytest.raises(InputError):
            client.delete_vector_name("c", "later")
        assert client.count("c").count == 12


def test_aliases(tmp_path: Path) -> None:
    def create(collection: str, alias: str) -> models.CreateAliasOperation:
        return models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=collection, alias_name=alias)
        )

    rename = models.RenameAliasOperation(rename_alias=models.RenameAlias(old_alias_name="x", new_alias_name="y"))
    with EdgeClient(tmp_path / "store") as client:
        filled(client, "c")
        client.create_collection("d", PARAMS)
        client.update_collection_aliases([create("c", "x"), rename])
        assert client.count("y").count == 12
        for wrong in (create("none", "z"), create("c", "d"), rename):
            with pytest.raises(ValueError, match=r"exist|not found"):
                client.update_collection_aliases([create("d", "y"), wrong])
        assert client.count("y").count == 12
        client.update_collection_aliases([create("d", "y")])
    with EdgeClient(tmp_path / "store") as client:
        assert client.count("y").count == 0
        assert [a.alias_name for a in client.get_collection_aliases("d").aliases] == ["y"]
        assert not client.collection_exists("x")
        client.delete_collection("d")
        assert client.get_aliases().aliases == []


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
def test_migrating_there_and_back(edge: EdgeClient, name: str, client: QdrantClient) -> None:
    filled(edge, name, metadata={"m": 1}, sparse_vectors_config={"s": models.SparseVectorParams(modifier="idf")})
    edge.create_payload_index(name, "word", INDEXES["word"])
    edge.migrate(client, [name])
    assert client.count(name).count == 12
    assert client.get_collection(name).config.metadata == {"m": 1}
    with EdgeClient() as back:
        client.migrate(back, [name])
        assert back.get_collection(name).payload_schema["word"].params is not None
        first, second = (c.scroll(name, limit=50, with_vectors=True)[0] for c in (edge, back))
        for a, b in zip(first, second, strict=True):
            assert (a.id, a.payload) == (b.id, b.payload)
            assert a.vector == pytest.approx(b.vector, abs=1e-6)
    client.delete_collection(name)


def test_wrong_field_names(edge: EdgeClient) -> None:
    filled(edge, "c")
    wrong = models.Filter(must=[models.FieldCondition(key="a b", match=models.MatchValue(value=1))])
    for call in (
        lambda: edge.create_payload_index("c", "a b", "keyword"),
        lambda: edge.scroll("c", scroll_filter=wrong),
        lambda: edge.query_points("c", [1.0] * 4, query_filter=wrong),
        lambda: edge.query_points("c", models.OrderByQuery(order_by="a b")),
        lambda: edge.scroll("c", order_by="a b"),
        lambda: edge.facet("c", "a b"),
    ):
        with pytest.raises(InputError):
            call()


def test_batches_of_updates(edge: EdgeClient) -> None:
    filled(edge, "c")
    edge.batch_update_points(
        "c",
        [
            models.UpsertOperation(
                upsert=models.PointsBatch(batch=models.Batch(ids=[50], vectors=[[1.0] * 4], payloads=[{"a": 1}]))
            ),
            models.UpsertOperation(
                upsert=models.PointsList(points=[models.PointStruct(id=51, vector=[1.0] * 4, payload={"b": 1})])
            ),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"c": 1}, points=[50])),
            models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"d": 1}, points=[51])),
            models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a"], points=[50])),
            models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[0])),
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(points=[models.PointVectors(id=1, vector=[0.0, 0, 0, 1])])
            ),
            models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(vector=[""], points=[2])),
            models.DeleteOperation(delete=models.PointIdsList(points=[3])),
        ],
    )
    found = {r.id: r for r in edge.retrieve("c", [50, 51, 0, 1, 2, 3], with_vectors=True)}
    assert found[50].payload == {"c": 1}
    assert found[51].payload == {"d": 1}
    assert found[0].payload == {}
    assert found[1].vector == [0.0, 0.0, 0.0, 1.0]
    assert found[2].vector in ({}, None)
    assert 3 not in found
