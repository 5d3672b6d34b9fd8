"""`situate.yaml`: the objects that it describes, and what is said about one that is wrong."""

from __future__ import annotations

import inspect
import json
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from situate import Chunk, Document, Embedder, Index, PipelineConfig, Retriever, chunkers, retrievers
from situate.chunkers import AutoChunker, HeadingSituator, LLMSituator, PruningChunker, TextChunker
from situate.configuration import Settings, from_config, load, schema
from situate.configuration.components import CHUNKERS, EXPANDERS, RERANKERS, SITUATORS
from situate.embedders import ChunkScheme, OpenAIGenerator, VLLMEncoder
from situate.errors import InputError
from situate.integrations import langchain, llama_index
from situate.retrievers import rerank
from situate.retrievers.config import LexicalScheme
from situate.retrievers.expand.hyde import HydeSettings

KEY = "sk-live-1234567890abcdef"
FULL = """
model:
  name: sentence-transformers/all-MiniLM-L6-v2
  query_instruction: "query: "
  dtype: float32
  scheme: {neighbours: 0.2}
chunker: {kind: auto, size: 120, overlap: 10}
situators:
  - headings
  - {kind: sentence, window: 9000}
preset: quality
config:
  prefetch: 60
  signals:
    - {kind: views, weight: 0.25}
  dense: {residual: 0.25}
  keys: [year]
  boosts:
    - {kind: recency, key: date, scale: 10}
store: {url: "http://localhost:6333", api_key: "${QDRANT_KEY}", collection: notes, options: {timeout: 3}}
tenant: acme
steps:
  k: 4
  threshold: 0.2
  expander: {kind: hyde, drafts: 3}
  rerankers:
    - {kind: cross_encoder, model: cross-encoder/ms-marco-MiniLM-L6-v2, top: 20, aggregation: first}
    - mmr
language_model: {model: small, url: "${LLM_URL}", api_key: "${LLM_KEY}", temperature: 0.7}
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def written(text: str) -> Path:
        file = tmp_path / "situate.yaml"
        file.write_text(text, encoding="utf-8")
        return file

    return written


@pytest.fixture
def full(write: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QDRANT_KEY", KEY)
    monkeypatch.setenv("LLM_KEY", KEY)
    monkeypatch.setenv("LLM_URL", "http://localhost:1/v1")
    path: Path = write(FULL)
    return path


def test_a_file_gives_the_objects_that_code_would_make(full: Path) -> None:
    retriever = from_config(full)
    index = retriever.index
    embedder = Embedder(query_instruction="query: ", dtype="float32", scheme=ChunkScheme(neighbours=0.2))
    assert index.embedder.settings == embedder.settings
    assert index.chunker == AutoChunker.for_model(embedder, 120, 10)
    assert index.chunker.fingerprint() == AutoChunker.for_model(embedder, 120, 10).fingerprint()  # type: ignore[attr-defined]
    headings, sentence = index.situators
    assert headings == HeadingSituator()
    assert isinstance(sentence, LLMSituator)
    assert (sentence.window, sentence.model) == (9000, "small")
    quality = PipelineConfig.quality()
    assert index.config.dense == ChunkScheme(late=True, residual=0.25, neighbours=0.35, context=("headings",))
    assert (index.config.prefetch, index.config.keys) == (60, ("year",))
    assert index.config.boosts[0].scale == 10  # type: ignore[union-attr]
    assert (index.config.feedback, index.config.lexical) == (quality.feedback, LexicalScheme())
    assert [(signal.kind, signal.weight) for signal in index.config.signals] == [("views", 0.25)]
    assert index.collection == "notes.acme"
    assert (retriever.settings.k, retriever.settings.threshold) == (4, 0.2)
    assert retriever.expander.settings == HydeSettings(drafts=3)  # type: ignore[union-attr]
    cross_encoder, mmr = retriever.rerankers
    assert cross_encoder.settings.top == 20  # type: ignore[attr-defined]
    assert cross_encoder.scorer.aggregation == "first"  # type: ignore[attr-defined]
    assert mmr.embedder is index.embedder  # type: ignore[attr-defined]
    model = load(full).generator()
    assert isinstance(model, OpenAIGenerator)
    assert (model.temperature, model.http.base_url, model.http.key()) == (0.7, "http://localhost:1/v1", KEY)


def test_no_repr_no_pickle_and_no_error_shows_a_key(full: Path) -> None:
    settings = load(full)
    assert KEY not in repr(settings) + str(settings.store) + settings.model_dump_json()
    assert KEY.encode() not in pickle.dumps(settings.index()) + pickle.dumps(settings)
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert pickle.loads(pickle.dumps(settings)).pipeline() == settings.pipeline()
    with pytest.raises(InputError, match="name its environment variable") as written:
        load({"store": {"url": "http://localhost:6333", "api_key": KEY}})
    assert KEY not in str(written.value)
    with pytest.raises(InputError, match="there is no such key") as misplaced:
        load({"store": {"url": "http://localhost:6333", "apikey": KEY}})
    assert KEY not in str(misplaced.value)


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load()
    index = settings.index()
    assert settings.store.folder == Path(".situate")
    assert index.embedder.settings == Embedder().settings
    assert index.chunker == AutoChunker.for_model(Embedder(), 200)
    assert index.config == PipelineConfig.fast()
    assert settings.generator() is None
    assert load({"model": "x", "store": "notes", "chunker": "text"}) == load(
        {"model": {"name": "x"}, "store": {"path": "notes"}, "chunker": {"kind": "text"}}
    )


def test_the_environment_comes_before_the_file_and_arguments_before_both(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("model: small\nstore: notes\nsteps: {k: 3, candidates: 9}\npreset:\n")
    assert load(file).store.folder == file.parent / "notes"
    monkeypatch.setenv("SITUATE_MODEL__DIMENSIONS", "128")
    monkeypatch.setenv("SITUATE_STEPS__K", "5")
    monkeypatch.setenv("SITUATE_STORE__URL", "http://localhost:6333")
    settings = load(file)
    assert (settings.model.name, settings.model.dimensions) == ("small", 128)
    assert (settings.steps.k, settings.steps.candidates) == (5, 9)
    assert settings.store.url == "http://localhost:6333"
    assert load(file, steps={"k": 7}, store=":memory:").steps.k == 7
    monkeypatch.setenv("SITUATE_STEPS__K", "many")
    with pytest.raises(InputError, match=r"environment variable SITUATE_STEPS__K: .*integer"):
        load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: x\nstoer: {path: a}\n", r"situate\.yaml, line 2 \(stoer\): there is no such key; did you mean store"),
        ("store:\n  pth: a\n", r"line 2 \(store\.pth\): there is no such key; did you mean path\?"),
        ("model: {model_name: a}\n", r"line 1 \(model\.model_name\): there is no such key"),
        ("steps:\n  expander: hide\n", r"line 2 \(steps\.expander\): there is no 'hide'; did you mean hyde\?"),
        ("steps:\n  expander:\n    kind: hyde\n    n: 3\n", r"line 4 \(steps\.expander\.n\): .*did you mean drafts\?"),
        ("steps:\n  rerankers:\n    - mmr\n    - {kind: mmr, balnce: 1}\n", r"line 4 \(steps\.rerankers\.1\.balnce\)"),
        ("steps: {rerankers: [{top: 3}]}\n", r"line 1 \(steps\.rerankers\.0\): give its kind"),
        ("config:\n  dense:\n    neighbors: 1\n", r"line 3 \(config\.dense\.neighbors\): .*did you mean neighbours\?"),
        ("config: {signals: [{kind: viewz}]}\n", r"line 1 \(config\): .*viewz"),
        ("preset: best\n", r"line 1 \(preset\): .*'plain', 'hybrid', 'fast' or 'quality'"),
        ("preset: plain\nconfig: {lexical_share: 0.4}\n", r"line 2 \(config\): .*lexical=None leaves BM25 out"),
        ("preset: hybrid\nconfig: {questions: 0.5}\n", r"line 2 \(config\): .*fusion='rrf' has no shares"),
        ("chunker:\n  kind: text\n  size: 0\n", r"line [123] \(chunker\): size=0: a chunk needs room"),
        ("chunker:\n  kind: text\n  size: true\n", r"line 3 \(chunker.size\): it is no truth value"),
        ("steps: {k: yes}\n", r"line 1 \(steps.k\): it is no truth value"),
        ("steps: {threshold: on}\n", r"line 1 \(steps.threshold\): it is no truth value"),
        ("config: {whitening: {remove: true}}\n", r"line 1 \(config.whitening.remove\): it is no truth value"),
        ("steps: {k: 0}\nmodel: {layers: 0}\n", r"line 2 \(model\): layers is 0.*; .*line 1 \(steps\.k\): .*great"),
        ("model: x\nmodel: y\n", r"line 2: model stands in line 1 already"),
        ("model: ${NOT_SET}\n", r"line 1: model names the environment variable NOT_SET, which is not set"),
        ("preset: fast\ntenant: 2024-99-99\n", r"line 2: no value that is read: put text in quotes"),
        ("steps: {k: " + "1" * 5000 + "}\n", r"line 1: no value that is read"),
        ("tenant: !!timestamp x\n", r"line 1: no value that is read"),
        ("model: [a\n", r"situate\.yaml, line 2, column 1: no YAML"),
        ("- a\n", r"line 1: a configuration is keys and values .* not a list"),
        ("[a]: b\n", r"line 1: a key is a word"),
        ("store: {path: a, url: 'http://b'}\n", r"line 1 \(store\): path and url are two places"),
        ("store: {url: 'ftp://b'}\n", r"line 1 \(store\): .*no http"),
        ("tenant: a/b\n", r"line 1 \(tenant\): "),
        ("language_model: {model: m, url: nowhere}\n", r"line 1 \(language_model\): .*no http or https address"),
        ("situators:\n  - headings\n  - sentence\n", r"line 3 \(situators\.1\): needs a language model"),
        ("a: &a [x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
         "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n", "more than 10,000 values"),
        ("[" * 1500, "no YAML|nested too deep"),
    ],
)  # fmt: skip
def test_an_error_names_file_line_key_and_the_nearest_key(write: Any, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_config(write(text))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes("model: Gödel".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * 2**21)
    with pytest.raises(InputError, match="more than 1,048,576 bytes"):
        load(tmp_path / "big.yaml")


@pytest.mark.parametrize(
    ("key", "kind"),
    [("chunker", kind) for kind in CHUNKERS]
    + [("situators", kind) for kind in SITUATORS]
    + [("expander", kind) for kind in EXPANDERS]
    + [("rerankers", kind) for kind in RERANKERS],
)
def test_every_kind_can_be_made(key: str, kind: str) -> None:
    model = {"model": "m", "url": "http://localhost:1/v1"}
    needs = {"keyphrases": {"kind": "keyphrases", "corpus": __file__}}  # counts of words, which no default has
    values: dict[str, Any] = {"chunker": kind} if key == "chunker" else {"situators": [needs.get(kind, kind)]}
    if key in ("expander", "rerankers"):
        values = {"steps": {key: kind if key == "expander" else [kind]}}
    made = from_config({**values, "store": ":memory:", "language_model": model})
    parts = (made.expander, *made.rerankers, *made.index.situators, made.index.chunker)
    known = _kinds()[kind]
    assert any(type(part) is (known[0] if isinstance(known, tuple) else known) for part in parts)


def test_a_pruning_chunker_prunes_any_other() -> None:
    embedder = Embedder()
    sized = load({"chunker": {"kind": "pruning", "threshold": 0.5, "chunker": {"kind": "text", "size": 90}}})
    assert sized.index(embedder=embedder).chunker == PruningChunker(TextChunker(90, tokenizer=embedder.tokenizer), 0.5)
    auto = load({"chunker": "pruning"}).index(embedder=embedder).chunker
    assert auto == PruningChunker(AutoChunker.for_model(embedder, 200))
    with pytest.raises(InputError, match=r"\(chunker.chunker\): there is no 'pruning'"):
        load({"chunker": {"kind": "pruning", "chunker": "pruning"}})
    with pytest.raises(InputError, match=r"\(chunker.chunker.siz\): there is no such key; did you mean size"):
        load({"chunker": {"kind": "pruning", "chunker": {"kind": "text", "siz": 9}}})


def test_every_part_has_a_word_and_the_page_names_it() -> None:
    kinds = _kinds()
    named = {kind[0] if isinstance(kind, tuple) else kind for kind in kinds.values()}
    # made of other parts, or of what no file can hold; a conversation is the chat's
    others = {"OptionalReranker", "Stages", "SplitterChunker", "ConversationalQuery"}
    for room, verb in ((chunkers, "split"), (chunkers, "situate"), (rerank, "rerank"), (retrievers, "expand")):
        parts = [getattr(room, name) for name in room.__all__]
        parts = [part for part in parts if inspect.isclass(part) and hasattr(part, verb)]
        missing = {part.__name__ for part in parts if part not in named and not getattr(part, "_is_protocol", False)}
        assert missing <= others
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [kind for kind in kinds if f"`{kind}`" not in page] == []


def _kinds() -> dict[str, Any]:
    return {**CHUNKERS, **SITUATORS, **EXPANDERS, **RERANKERS}


def test_a_served_model(monkeypatch: pytest.MonkeyPatch) -> None:
    server = {"kind": "vllm", "url": "http://localhost:8000", "api_key": "${KEY}", "batch_size": 4}
    settings = load({"model": {"name": "intfloat/e5-small-v2", "server": server}, "store": ":memory:"})
    encoder = settings.embedder().settings.encoder
    assert isinstance(encoder, VLLMEncoder)
    monkeypatch.setenv("KEY", KEY)
    assert encoder.http.key() == KEY


def test_the_schema_accepts_the_file_and_describes_every_kind(full: Path) -> None:
    import yaml

    described = schema()
    validator = jsonschema.Draft202012Validator(described)
    assert list(validator.iter_errors(yaml.safe_load(FULL))) == []
    assert next(validator.iter_errors({"stoer": 1})).validator == "additionalProperties"
    text = json.dumps(described)
    assert all(f'"{kind}"' in text for kind in (*CHUNKERS, *SITUATORS, *EXPANDERS, *RERANKERS))


def test_one_file_for_plain_use_and_for_both_frameworks(write: Any) -> None:
    file = write("store: ':memory:'\nsteps: {k: 1}\n")
    document = Document("trees", "# Trees\n\nThe oak is a tree with acorns.")
    plain = from_config(file)
    assert isinstance(plain, Retriever)
    assert isinstance(plain.index, Index)
    plain.index.add([document])
    found: Chunk = plain.retrieve("acorns").hits[0].chunk
    for_llama_index = llama_index.from_config(file)
    for_llama_index.retriever.index.add([document])
    assert for_llama_index.retrieve("acorns")[0].node.node_id == found.id
    for_langchain = langchain.from_config(file)
    for_langchain.index.add([document])
    assert for_langchain.invoke("acorns")[0].page_content == found.text
    for index in (plain.index, for_llama_index.retriever.index, for_langchain.index):
        index.close()


def test_tenants_do_not_see_each_other(tmp_path: Path) -> None:
    store = {"path": str(tmp_path / "store")}
    with load({"store": store, "tenant": "acme"}).index() as acme:
        acme.add([Document("secret", "The plan of Acme.")])
        with load({"store": store, "tenant": "other"}).index(client=acme.client, embedder=acme.embedder) as other:
            assert other.search("plan").hits == ()
            assert other.count() == 0
        assert acme.count() == 1


def test_settings_in_python() -> None:
    settings = Settings(model={"name": "x"}, preset="plain")  # type: ignore[arg-type]
    assert load(settings) is settings
    assert settings.pipeline() == PipelineConfig.plain()
    assert repr(settings) == "Settings(model=ModelSettings(name='x'), preset='plain')"
