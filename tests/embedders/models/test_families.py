"""Each family writes queries and documents as in its card; the folder's files and the user's settings override it."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from situate.embedders import Embedder, Family, family_of
from situate.embedders.models.conventions import conventions
from situate.embedders.models.families import STATIC_LATE, FewShotFamily
from situate.embedders.models.registry import families, read_families
from situate.embedders.models.resolve import resolve_model
from situate.embedders.types import SpanText
from situate.errors import ConventionError, FallbackWarning, ModelNotFoundError, UnsafeModelError
from tests.conftest import short_of


@pytest.mark.parametrize(
    ("model", "query", "document"),
    [
        ("intfloat/e5-base-v2", "query: q", "passage: d"),
        ("intfloat/multilingual-e5-small", "query: q", "passage: d"),
        (
            "intfloat/multilingual-e5-large-instruct",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: q",
            "d",
        ),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: q", "d"),
        ("BAAI/bge-small-zh-v1.5", "为这个句子生成表示以用于检索相关文章：q", "d"),
        ("BAAI/bge-m3", "q", "d"),
        (
            "BAAI/bge-en-icl",
            "<instruct>Given a web search query, retrieve relevant passages that answer the query\n"
            "<query>q\n<response>",
            "d",
        ),
        ("thenlper/gte-small", "q", "d"),
        ("Alibaba-NLP/gte-modernbert-base", "q", "d"),
        ("nomic-ai/nomic-embed-text-v1.5", "search_query: q", "search_document: d"),
        ("jinaai/jina-embeddings-v2-base-en", "q", "d"),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: q", "d"),
        ("ibm-granite/granite-embedding-125m-english", "q", "d"),
        (
            "Qwen/Qwen3-Embedding-0.6B",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:q",
            "d",
        ),
        ("google/embeddinggemma-300m", "task: search result | query: q", "title: none | text: d"),
        ("mixedbread-ai/mxbai-embed-large-v1", "Represent this sentence for searching relevant passages: q", "d"),
        (
            "hkunlp/instructor-large",
            "Represent the question for retrieving supporting documents: q",
            "Represent the document for retrieval: d",
        ),
        ("Muennighoff/SGPT-125M-weightedmean-msmarco-specb-bitfit", "[q]", "{d}"),
        ("sentence-transformers/gtr-t5-base", "q", "d"),
        (
            "KaLM-Embedding/KaLM-embedding-multilingual-mini-instruct-v2.5",
            "Instruct: Given a query, retrieve documents that answer the query \n Query: q",
            "d",
        ),
        (
            "NovaSearch/stella_en_400M_v5",
            "Instruct: Given a web search query, retrieve relevant passages that answer the query.\nQuery: q",
            "d",
        ),
        (
            "jinaai/jina-code-embeddings-0.5b",
            "Find the most relevant code snippet given the following query:\nq",
            "Candidate code snippet:\nd",
        ),
        ("jinaai/jina-embeddings-v5-text-small-retrieval", "Query: q", "Document: d"),
        ("nomic-ai/CodeRankEmbed", "Represent this query for searching relevant code: q", "d"),
        ("cl-nagoya/ruri-v3-310m", "検索クエリ: q", "検索文書: d"),
        ("ai-forever/FRIDA", "search_query: q", "search_document: d"),
        ("thenlper/gte-large-zh", "q", "d"),
        (
            "tencent/Youtu-Embedding",
            "Instruction: Given a web search query, retrieve relevant passages that answer the query \nQuery: q",
            "d",
        ),
        (
            "Kingsoft-LLM/QZhou-Embedding-Zh",
            "This sentence: <|im_start|>“Instruct: Given a web search query, retrieve relevant passages that answer "
            "the query\nQuery:q” means in one word: “",
            "This sentence: <|im_start|>“d” means in one word: “",
        ),
        ("text-embedding-3-small", "q", "d"),
    ],
)
def test_texts_are_written_as_the_card_says(model, query, document):
    family = family_of(model)
    assert family is not None
    assert family.query_text("q").text == query
    assert family.document_text("d").text == document


@pytest.mark.parametrize(
    "wanted",
    [
        "INSTRUCTOR", "E5 / multilingual-e5", "E5-instruct", "E5-mistral", "BGE English", "BGE Chinese", "BGE-M3",
        "BGE-ICL", "GTE", "GTE-Qwen2", "gte-modernbert", "Nomic v1.5", "Jina v2", "Jina v3", "Jina v4",
        "Arctic-Embed 2",
        "Granite", "KaLM v1", "KaLM v2", "Qwen3-Embedding", "QZhou", "EmbeddingGemma", "mxbai", "NV-Embed",
        "Llama-Embed-Nemotron", "LG-ANNA", "SGPT (asymmetric)", "Sentence-T5", "GTR", "SitEmb-v1.5", "SONAR",
        "Contextual Document Embeddings (cde-small)",
    ],
)  # fmt: skip
def test_the_registry_holds_the_family_with_its_source(wanted):
    (family,) = [family for family in families() if family.name == wanted]
    assert family.source.startswith("https://")
    assert family.models


def test_every_record_can_be_found_pickled_and_is_its_own():
    names = [family.name for family in families()]
    assert len(names) == len(set(names))
    for family in families():
        assert pickle.loads(pickle.dumps(family)) == family
        assert all(pattern == pattern.lower() for pattern in family.models)
        plain = family.models[0].replace("*", "x")
        assert family_of(plain) == family, f"{plain} is taken by an earlier family"
        assert family.pooling in ("mean", "cls", "last", "weighted_mean")
        assert tuple(sorted(family.dimensions)) == family.dimensions


@pytest.mark.parametrize(
    ("model", "pooling"),
    [
        ("thenlper/gte-base-zh", "cls"),
        ("thenlper/gte-base", "mean"),
        ("sentence-transformers/msmarco-distilbert-dot-v5", "mean"),
        ("sentence-transformers/multi-qa-mpnet-base-dot-v1", "cls"),
        ("dragonkue/snowflake-arctic-embed-l-v2.0-ko", "cls"),
        ("Kingsoft-LLM/QZhou-Embedding", "mean"),
        ("Kingsoft-LLM/QZhou-Embedding-Zh", "last"),
        ("avsolatorio/GIST-small-Embedding-v0", "cls"),
        ("avsolatorio/GIST-all-MiniLM-L6-v2", "mean"),
        ("jinaai/jina-embedding-b-en-v1", "mean"),
        ("mixedbread-ai/mxbai-embed-large-v1", "cls"),
        ("mixedbread-ai/deepset-mxbai-embed-de-large-v1", "mean"),
        ("Salesforce/SFR-Embedding-Code-400M_R", None),
    ],
)
def test_members_of_a_family_that_pool_otherwise_have_their_own_record(model, pooling):
    family = family_of(model)
    assert (None if family is None else family.pooling) == pooling
    if model.startswith("dragonkue"):
        assert family is not None
        assert family.query == "query: "


def test_a_folder_is_known_by_its_name_and_a_stranger_is_not():
    known = family_of("models/e5-base-v2")
    assert known is not None
    assert known.name == "E5 / multilingual-e5"
    assert family_of("somebody/something") is None
    assert family_of("bert-base-uncased") is None
    first = family_of("somebody/something", "BAAI/bge-m3")
    assert first is not None
    assert first.name == "BGE-M3"


def test_some_models_may_be_cut_anywhere_and_others_at_some_lengths():
    qwen, nomic, bge = (
        family_of(n) for n in ("Qwen/Qwen3-Embedding-8B", "nomic-ai/nomic-embed-text-v1.5", "BAAI/bge-m3")
    )
    assert qwen is not None
    assert nomic is not None
    assert bge is not None
    assert [qwen.trained_to_be_cut(n) for n in (31, 32, 300, 4096, 5000)] == [False, True, True, True, False]
    assert [nomic.trained_to_be_cut(n) for n in (64, 300, 768)] == [True, False, True]
    assert not bge.trained_to_be_cut(512)
    assert (qwen.cuts, nomic.cuts, bge.cuts) == ("any from 32 to 4096", "64, 128, 256, 512, 768", "")


def test_braces_in_a_text_are_only_text():
    family = Family(name="x", source="", query="{task}: ", document="{title}: ", task="find")
    assert family.query_text("{task} {0} {").text == "find: {task} {0} {"
    assert family.document_text("{title}", title="T").text == "T: {title}"
    assert family.document_text("d").text == "none: d"


def test_few_shot_examples_stand_before_the_query():
    family = family_of("BAAI/bge-en-icl")
    assert isinstance(family, FewShotFamily)
    written = family.with_examples([("a", "b"), ("c", "d")]).query_text("q", task="T")
    assert written.text == (
        "<instruct>T\n<query>a\n<response>b\n\n<instruct>T\n<query>c\n<response>d\n\n<instruct>T\n<query>q\n<response>"
    )
    assert written.text[written.prefix :] == "q\n<response>"


def test_spans_are_moved_behind_instruction_and_lead():
    family = Family(name="x", source="", document="passage: ")
    written = family.spans_text("abc def", [(4, 7), (0, 3)], lead="Title\n", window=9, overlap=2)
    assert written == SpanText("passage: Title\nabc def", ((19, 22), (15, 18)), prefix=15, window=9, overlap=2)


def test_sitemb_puts_the_neighbourhood_after_the_chunk():
    family = family_of("SituatedEmbedding/SitEmb-v1.5-Qwen3")
    assert family is not None
    assert family.situates
    text = family.situated_text("chunk", "before ", " after").text
    assert text.startswith("chunk<|endoftext|>The context in which the chunk is situated is given below.")
    assert text.endswith("Context: before chunk after")


# A folder's conventions --------------------------------------------------------------------------------------------


def folder(tmp_path: Path, **files: object) -> Path:
    """A model folder with only the files that conventions are read from."""
    for name, value in {"config": {"model_type": "bert"}, **files}.items():
        path = tmp_path / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    return tmp_path


MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def merged(path: Path, **settings: object) -> Family:
    return conventions(Embedder(path, **settings).settings, resolve_model(path))  # type: ignore[arg-type]


GOOD = 'name = "Own"\nsource = "a card"\nmodels = ["me/own"]'


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('pooling = "median"', "record 1 .'Own'., key 'pooling': 'median' is no"),
        ("max_tokens = true", "record 1 .'Own'., key 'max_tokens': True is no"),
        ("dimensions = [1.5]", "key 'dimensions'"),
        ("query_options = { task = 3 }", "key 'query_options'"),
        ('prefix = "query: "', "record 1 .'Own'.: unknown key 'prefix'"),
        ("sources = []", "unknown key 'sources'"),
        ('kind = "sparse"', "key 'kind': 'sparse' is not one of"),
        ('use = ["nothing"]', "key 'use': there is no .shared.nothing."),
        ('use = "nothing"', "key 'use'"),
        ("pooling = ", "not valid TOML"),
    ],
)
def test_a_record_that_is_written_wrong_is_named_with_its_key(lines, message):
    assert read_families(f"[[family]]\n{GOOD}") == (Family("Own", "a card", ("me/own",)),)
    with pytest.raises(ConventionError, match=message):
        read_families(f"[[family]]\n{GOOD}\n{lines}")


def test_a_record_without_its_source_or_a_family_that_is_no_table_is_refused():
    with pytest.raises(ConventionError, match=r"record 1 .'Own'. lacks the key 'source'"):
        read_families('[[family]]\nname = "Own"\nmodels = []')
    with pytest.raises(ConventionError, match=r"record 1 .*no table"):
        read_families("family = [1]")
    with pytest.raises(ConventionError, match="'family' and 'shared'"):
        read_families(f"[[families]]\n{GOOD}")


def test_shared_texts_hold_where_the_record_is_silent():
    text = f'[shared.both]\nquery = "q: "\ndocument = "d: "\n[[family]]\n{GOOD}\nuse = ["both"]\nquery = "own: "'
    (family,) = read_families(text)
    assert (family.query, family.document) == ("own: ", "d: ")


def test_the_folders_own_files_rule_over_the_registry(tmp_path):
    path = folder(
        tmp_path / "bge-small-en-v1.5",
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode_mean_tokens": True, "include_prompt": False}},
        config_sentence_transformers={"prompts": {"query": "Q> ", "document": ""}, "similarity_fn_name": "dot"},
        sentence_bert_config={"max_seq_length": 77},
    )
    record = merged(path)
    assert record.name == "BGE English"
    assert record.query == "Q> "
    assert (record.pooling, record.pool_instruction, record.max_tokens) == ("mean", False, 77)
    assert (record.similarity, record.normalize) == ("dot", False)
    assert record.late == ""


def test_prompts_that_are_all_empty_say_nothing(tmp_path):
    path = folder(
        tmp_path / "e5-base",
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode": "mean"}},
        config_sentence_transformers={"prompts": {"query": "", "document": ""}},
    )
    assert (merged(path).query, merged(path).document) == ("query: ", "passage: ")


@pytest.mark.parametrize(
    ("prompts", "default", "query", "document"),
    [
        ({"query": "q: ", "passage": "p: "}, None, "q: ", "p: "),
        ({"retrieval.query": "rq ", "retrieval.passage": "rp "}, None, "rq ", "rp "),
        ({"s2p_query": "s2p: ", "s2s_query": "s2s: "}, None, "s2p: ", ""),
        ({"query": "q: "}, None, "q: ", ""),
        # sentence-transformers adds the two empty ones when it saves a model that has other names.
        ({"query": "", "document": "", "retrieval.query": "rq ", "retrieval.passage": "rp "}, None, "rq ", "rp "),
        ({"query": "q: ", "document": ""}, None, "q: ", ""),
        ({"both": "b: "}, "both", "b: ", "b: "),
    ],
)
def test_stored_prompts_are_found_by_role(tmp_path, prompts, default, query, document):
    path = folder(
        tmp_path,
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode": "mean"}},
        config_sentence_transformers={"prompts": prompts, "default_prompt_name": default},
    )
    assert (merged(path).query, merged(path).document) == (query, document)


def test_the_user_rules_over_everything_and_an_empty_instruction_is_not_none(tmp_path):
    path = folder(tmp_path / "e5-base", modules=MODULES, **{"1_Pooling__config": {"pooling_mode": "cls"}})
    assert merged(path).query == "query: "
    assert merged(path, query_instruction="").query == ""
    assert merged(path, document_instruction="D ").document == "D "
    assert merged(path).pooling == "cls"
    assert merged(path, pooling="mean").pooling == "mean"
    own = Family(name="mine", source="me", query="m ", max_tokens=9)
    assert merged(path, family=own).query == "m "


@pytest.mark.parametrize(
    ("pooling", "reason"), [("cls", "first token"), ("lasttoken", "last token"), ("mean", ""), ("weightedmean", "")]
)
def test_what_is_suited_to_late_chunking_follows_the_pooling(tmp_path, pooling, reason):
    path = folder(tmp_path, modules=MODULES, **{"1_Pooling__config": {"pooling_mode": pooling}})
    late = merged(path).late
    assert reason in late
    assert bool(reason) == bool(late)


def test_static_embeddings_gain_nothing_from_a_document(tmp_path):
    modules = [{"path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
    assert merged(folder(tmp_path, modules=modules)).late == STATIC_LATE


@pytest.mark.parametrize(
    ("modules", "pooling", "why"),
    [
        (MODULES, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"cls \+ mean"),
        (MODULES, {"pooling_mode": "a new one"}, "a new one"),
        ([*MODULES, {"path": "2_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}], {}, "LayerNorm"),
        ([{"path": "", "type": "custom_st.Transformer"}, MODULES[1]], {}, r"own code \(custom_st.Transformer\)"),
    ],
)
def test_what_situate_does_not_compute_is_left_to_the_library(tmp_path, modules, pooling, why):
    import re

    path = folder(tmp_path, modules=modules, **{"1_Pooling__config": pooling})
    assert re.search(why, merged(path).library)
    assert "one vector per text" in merged(path).late


@pytest.mark.parametrize("more", [[], ["Dense"], ["Dense", "Dense", "Normalize"], ["Dropout", "Normalize"]])
def test_linear_layers_and_the_norm_are_computed_here(tmp_path, more):
    behind = [{"path": f"{i}_{kind}", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(more, 2)]
    path = folder(tmp_path, modules=[*MODULES, *behind], **{"1_Pooling__config": {"pooling_mode": "mean"}})
    assert merged(path).library == ""


def test_a_task_fills_the_template_or_names_a_stored_prompt(tmp_path):
    qwen = folder(
        tmp_path / "Qwen3-Embedding-0.6B",
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode": "lasttoken"}},
        config_sentence_transformers={"prompts": {"query": "Instruct: stored\nQuery:", "document": ""}},
    )
    assert merged(qwen).query_text("q").text == "Instruct: stored\nQuery:q"
    assert merged(qwen, task="Find laws").query_text("q").text == "Instruct: Find laws\nQuery:q"

    named = folder(
        tmp_path / "named",
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode": "mean"}},
        config_sentence_transformers={"prompts": {"query": "q: ", "clustering": "cluster: "}},
    )
    assert merged(named, task="clustering").query == "cluster: "
    with pytest.raises(ConventionError, match=r"no place for one.*clustering"):
        merged(named, task="Find laws")


def test_an_unknown_model_says_what_was_assumed(tmp_path):
    path = folder(tmp_path / "mystery")
    with pytest.warns(FallbackWarning, match=r"mean pooling.*no query and no document instruction"):
        record = merged(path)
    assert len(record.assumed) == 2
    with pytest.warns(FallbackWarning, match=r"mean pooling"):
        assert len(merged(folder(tmp_path / "no pooling", modules=MODULES[:1])).assumed) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merged(path, query_instruction="", document_instruction="", pooling="mean").assumed == ()
        # A model that the library runs whole pools by its own modules.
        static = [{"path": "", "type": "sentence_transformers.models.StaticEmbedding"}]
        assert merged(folder(tmp_path / "static", modules=static)).assumed == ()
        # sentence-transformers' own files without prompts say that there are none.
        complete = folder(tmp_path / "complete", modules=MODULES, **{"1_Pooling__config": {"pooling_mode": "mean"}})
        assert merged(complete).assumed == ()


def test_models_that_would_come_out_wrong_are_refused(tmp_path):
    auto_map = {"model_type": "qwen2", "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}
    for name in ("gte-Qwen2-1.5B-instruct", "gte-multilingual-base", "gte-large-en-v1.5", "nomic-embed-text-v2-moe"):
        own = folder(tmp_path / name, config=auto_map, modules=MODULES)
        with pytest.raises(UnsafeModelError, match="gives right vectors only through its repository's own code"):
            Embedder(own).encoder  # noqa: B018
    for name in ("jina-embeddings-v4", "NV-Embed-v2", "QZhou-Embedding-Zh"):
        with pytest.raises(UnsafeModelError, match=r"own code \(.+\): pass trust_remote_code=True.*or serve it"):
            Embedder(folder(tmp_path / name), pooling="mean").encoder  # noqa: B018
    cde = folder(tmp_path / "cde-small-v2")
    with pytest.raises(ConventionError, match="two stages"):
        Embedder(cde, pooling="mean").encoder  # noqa: B018


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_unknown_model_gives_one_warning_and_is_described(tmp_path):
    saved_model(tmp_path, pooling="mean", prompts=None, include_prompt=True, normalize=True)
    bare = tmp_path / "base"
    assert not (bare / "modules.json").exists()
    embedder = Embedder(bare, dtype="float32", device="cpu")
    with pytest.warns(FallbackWarning, match="in no family that situate knows"):
        first = embedder.embed_queries(TEXTS)
    described = embedder.describe()  # warnings are errors here: it was given once
    assert "assumed     mean pooling (the folder has no 1_Pooling/config.json)" in described
    assert "assumed     no query and no document instruction" in described
    assert "family      unknown" in described
    np.testing.assert_array_equal(first, embedder.embed_documents(TEXTS))
    # Explicit conventions give no warning.
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallbackWarning)
        explicit = Embedder(bare, query_instruction="", document_instruction="", pooling="cls", dtype="float32")
        assert "assumed" not in explicit.describe()


def test_own_code_that_is_not_run_gives_a_warning(tmp_path):
    config = {"model_type": "bert", "auto_map": {"AutoModel": "modeling_alibi.AlibiModel"}}
    path = folder(tmp_path / "mystery", config=config, modules=MODULES, **{"1_Pooling__config": {}})
    with pytest.warns(FallbackWarning, match=r"own class.*modeling_alibi.AlibiModel, is not run"):
        assert len(merged(path).assumed) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert merged(path, trust_remote_code=True).assumed == ()


def test_what_cannot_run_here_is_described_all_the_same(tmp_path, monkeypatch):
    auto_map = {"model_type": "qwen2", "auto_map": {"AutoModel": "modeling_qwen.Qwen2Model"}}
    gte = folder(tmp_path / "gte-Qwen2-1.5B-instruct", config=auto_map, modules=MODULES)
    refused = Embedder(gte, task="Find laws").describe()
    assert "query       'Instruct: Find laws\\nQuery: ⟨text⟩'" in refused
    assert "not run     model" in refused
    assert "trust_remote_code=True" in refused
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = Embedder("nvidia/NV-Embed-v2", document_instruction="D: ").describe()
    assert "model       nvidia/NV-Embed-v2 (its files are not here)" in missing
    assert "sources     you: document instruction; the record: the rest" in missing
    assert "document    'D: ⟨text⟩</s>'" in missing
    assert "pooled      by the model's own modules" in missing
    assert "late        not suited" in missing
    assert "not run     model 'nvidia/NV-Embed-v2' was not found" in missing
    with pytest.raises(ModelNotFoundError):
        Embedder("nobody/knows").describe()


def test_describe_says_whose_word_it_is_and_what_is_doubtful(tmp_path):
    tiny = {"model_type": "bert", "hidden_size": 64, "max_position_embeddings": 512}
    path = folder(
        tmp_path / "mxbai-embed-large-v1",
        config=tiny,
        modules=MODULES,
        **{"1_Pooling__config": {"pooling_mode": "cls"}},
        config_sentence_transformers={"prompts": {"query": "Q: "}},
    )
    shown = Embedder(path, document_instruction="D: ", max_tokens=100).describe()
    assert "sources     you: document instruction; the folder: query instruction, pooling, norm; the record" in shown
    assert "unconfirmed to which lengths its vectors may be cut" in shown
    assert "dimensions  may be cut to 64\n" in shown  # not to more than it has
    assert "reads       up to 100 tokens, trained on 100" in shown


# Against sentence-transformers itself ---------------------------------------------------------------------------------

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat on mat query passage : represent for retrieval red blue house "
    "is of city berlin capital it has people old river runs through . , ##s ##ing walk"
)
TEXTS = ["the cat sat on the mat", "berlin is the capital of a city . it has people", "red house", ""]


def saved_model(
    path: Path, *, pooling: str, prompts: dict | None, include_prompt: bool, normalize: bool, dense: int = 0
) -> Path:
    """A tiny random BERT, saved by sentence-transformers with these conventions."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = path / "base"
    base.mkdir(parents=True)
    (base / "vocab.txt").write_text(WORDS.replace(" ", "\n"))
    BertTokenizerFast(str(base / "vocab.txt"), model_max_length=64).save_pretrained(base)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS.count(" ") + 1, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(base)
    modules = [Transformer(str(base)), Pooling(32, pooling_mode=pooling, include_prompt=include_prompt)]
    modules += [Dense(32, 24, activation_function=torch.nn.Tanh())][:dense]
    modules += [Dense(24, 8, bias=False, activation_function=torch.nn.Identity())][: dense - 1]
    model = SentenceTransformer(modules=modules + ([Normalize()] if normalize else []), prompts=prompts, device="cpu")
    model.save(str(path / "model"))
    return path / "model"


POOLINGS = ("mean", "cls", "lasttoken", "weightedmean", "max", "mean_sqrt_len_tokens")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("pooling", "include_prompt"),
    short_of(((pooling, include) for pooling in POOLINGS for include in (True, False)), 3),
)
def test_vectors_equal_sentence_transformers_with_its_prompts(tmp_path, pooling, include_prompt):
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "query : ", "document": "represent the passage for retrieval : "}
    if pooling == "cls" and not include_prompt and version("sentence-transformers").startswith("5."):
        pytest.skip("sentence-transformers 5.4 takes the first token all the same")
    path = saved_model(tmp_path, pooling=pooling, prompts=prompts, include_prompt=include_prompt, normalize=True)
    reference = SentenceTransformer(str(path), device="cpu")
    embedder = Embedder(path, dtype="float32", device="cpu")
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), reference.encode_query(TEXTS), atol=2e-6)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), reference.encode_document(TEXTS), atol=2e-6)
    assert np.abs(embedder.embed_queries(TEXTS) - embedder.embed_documents(TEXTS)).max() > 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pooling", short_of(POOLINGS, 2))
def test_vectors_equal_sentence_transformers_behind_linear_layers_and_with_their_lengths(tmp_path, pooling):
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "query : ", "document": ""}
    path = saved_model(tmp_path, pooling=pooling, prompts=prompts, include_prompt=True, normalize=False, dense=2)
    settings = json.loads((path / "config_sentence_transformers.json").read_text())
    (path / "config_sentence_transformers.json").write_text(json.dumps({**settings, "similarity_fn_name": "dot"}))
    reference = SentenceTransformer(str(path), device="cpu")
    embedder = Embedder(path, dtype="float32", device="cpu")
    assert embedder.dimension == 8
    np.testing.assert_allclose(embedder.embed_queries(TEXTS), reference.encode_query(TEXTS), atol=5e-6)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), reference.encode_document(TEXTS), atol=5e-6)
    assert embedder.similarity == "dot"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_without_normalize_and_compared_by_dot_keeps_its_lengths(tmp_path):
    from sentence_transformers import SentenceTransformer

    path = saved_model(tmp_path, pooling="mean", prompts=None, include_prompt=True, normalize=False)
    settings = json.loads((path / "config_sentence_transformers.json").read_text())
    (path / "config_sentence_transformers.json").write_text(json.dumps({**settings, "similarity_fn_name": "dot"}))
    embedder = Embedder(path, dtype="float32", device="cpu")
    vectors = embedder.embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, SentenceTransformer(str(path), device="cpu").encode(TEXTS), atol=1e-5)
    assert embedder.similarity == "dot"
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.1


def test_records_are_values():
    family = family_of("BAAI/bge-m3")
    assert family is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.query = "x"  # type: ignore[misc]


def test_the_page_about_models_shows_what_describe_prints():
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    embedder = Embedder("sentence-transformers/all-MiniLM-L6-v2", query_instruction="question: ")
    for line in embedder.describe().splitlines():
        assert (line if not line.startswith("model ") else line.partition("(wheel: ")[0]) in page


def test_the_page_about_models_holds_the_registry_as_it_is():
    from situate.embedders.models.family_table import table, with_table

    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    assert page == with_table(page), "run: python -m situate.embedders.models.family_table docs/models.md"
    assert any(family.unconfirmed for family in families())
    for family in families():
        assert family.unconfirmed in page
        (row,) = [line for line in table().splitlines() if line.startswith(f"| [{family.name}]({family.source}) |")]
        assert family.query.replace("\n", "⏎").replace("|", "\\|") in row
