"""The registry: one record per model family, each read from the model card or paper that it names.

Pooling, normalisation, lengths and prompts in a model's own sentence-transformers files rule over what stands here;
the registry speaks where they are silent, and for models that are served elsewhere.
"""

from __future__ import annotations

from situate.embedders.models._registry_decoders import DECODERS
from situate.embedders.models._registry_encoders import ENCODERS
from situate.embedders.models._registry_library import LIBRARY, SERVED
from situate.embedders.models._registry_texts import BGE_QUERY, CARD, INSTRUCT, WEB_SEARCH
from situate.embedders.models.families import Family, FewShotFamily

_SENTENCE_TRANSFORMERS = (
    Family(
        name="all-MiniLM-L6",
        source=CARD + "sentence-transformers/all-MiniLM-L6-v2",
        models=("sentence-transformers/all-minilm-l6-v*",),
        max_tokens=256,
        trained_tokens=256,
        note="late chunking measured best at its published length of 256, and loses recall at 512",
    ),
    Family(
        name="all-MiniLM-L12",
        source=CARD + "sentence-transformers/all-MiniLM-L12-v2",
        models=("sentence-transformers/all-minilm-l12-v*",),
        max_tokens=128,
    ),
    Family(
        name="all-mpnet-base",
        source=CARD + "sentence-transformers/all-mpnet-base-v2",
        models=("sentence-transformers/all-mpnet-base-v*",),
        max_tokens=384,
    ),
    Family(
        name="multi-qa (dot)",
        source=CARD + "sentence-transformers/multi-qa-mpnet-base-dot-v1",
        models=("sentence-transformers/multi-qa-*-dot-v1", "sentence-transformers/msmarco-*-tas-b"),
        pooling="cls",
        normalize=False,
        similarity="dot",
        max_tokens=512,
        trained_tokens=250,
        note="its card: trained on texts of up to 250 word pieces",
    ),
    Family(
        name="MS MARCO (dot)",
        source=CARD + "sentence-transformers/msmarco-distilbert-dot-v5",
        models=("sentence-transformers/msmarco-*-dot-v5",),
        normalize=False,
        similarity="dot",
        max_tokens=512,
    ),
    Family(
        name="MS MARCO (cosine)",
        source=CARD + "sentence-transformers/msmarco-MiniLM-L6-cos-v5",
        models=("sentence-transformers/msmarco-*-cos-v5",),
        max_tokens=512,
    ),
    Family(
        name="Paraphrase",
        source=CARD + "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        models=("sentence-transformers/paraphrase-*",),
        max_tokens=128,
        note="trained to tell paraphrases, not to answer questions: expect less of it in search",
    ),
    Family(
        name="LaBSE",
        source=CARD + "sentence-transformers/LaBSE",
        models=("sentence-transformers/labse*",),
        pooling="cls",
        max_tokens=256,
        note="a linear layer with tanh follows; trained to find translations, not to answer questions",
    ),
    Family(
        name="multi-qa (cosine)",
        source=CARD + "sentence-transformers/multi-qa-MiniLM-L6-cos-v1",
        models=("sentence-transformers/multi-qa-*-cos-v1",),
        max_tokens=512,
        trained_tokens=250,
        note="its card: trained on texts of up to 250 word pieces",
    ),
    Family(
        name="Sentence-T5",
        source="https://arxiv.org/abs/2108.08877",
        models=("sentence-transformers/sentence-t5-*",),
        max_tokens=256,
        note="a linear layer without bias follows the mean; trained to tell similar sentences, not to answer questions",
    ),
    Family(
        name="GTR",
        source="https://arxiv.org/abs/2112.07899",
        models=("sentence-transformers/gtr-t5-*",),
        max_tokens=512,
        note="a linear layer without bias follows the mean",
    ),
    Family(
        name="Contriever",
        source="https://arxiv.org/abs/2112.09118",
        models=("facebook/contriever*", "facebook/mcontriever*"),
        normalize=False,
        similarity="dot",
        max_tokens=512,
        trained_tokens=256,
    ),
    Family(
        name="SONAR",
        source=CARD + "cointegrated/SONAR_200_text_encoder",
        models=("cointegrated/sonar_200_text_encoder*", "*/sonar*text*encoder*"),
        max_tokens=512,
        note="its tokenizer puts a language in front of each text: the one that tokenizer.json was saved with "
        "(English), whatever the text's own is; a sentence encoder, weak on long texts",
    ),
)

_E5 = (
    Family(
        name="E5-instruct",
        source=CARD + "intfloat/multilingual-e5-large-instruct",
        models=("intfloat/multilingual-e5-large-instruct",),
        query=INSTRUCT,
        task=WEB_SEARCH,
        max_tokens=512,
    ),
    Family(
        name="E5-mistral",
        source=CARD + "intfloat/e5-mistral-7b-instruct",
        models=("intfloat/e5-mistral-7b-instruct",),
        query=INSTRUCT,
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=4096,
        end_token=True,
    ),
    Family(
        name="Mistral retrievers (SFR, Linq, Zeta-Alpha)",
        source=CARD + "Salesforce/SFR-Embedding-Mistral",
        models=(
            "salesforce/sfr-embedding-mistral",
            "salesforce/sfr-embedding-2_r",
            "linq-ai-research/linq-embed-mistral",
            "zeta-alpha-ai/zeta-alpha-e5-mistral",
        ),
        query=INSTRUCT,
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=4096,
        end_token=True,
    ),
    Family(
        name="E5 / multilingual-e5",
        source="https://arxiv.org/abs/2212.03533",
        models=(
            "intfloat/e5-small*",
            "intfloat/e5-base*",
            "intfloat/e5-large*",
            "intfloat/multilingual-e5-small",
            "intfloat/multilingual-e5-base",
            "intfloat/multilingual-e5-large",
            "intfloat/multilingual-e5-small-*",
            "nlpai-lab/koe5",
            "deepvk/user-base",
            "manveertamber/cadet-embed-base-v1",
        ),
        query="query: ",
        document="passage: ",
        max_tokens=512,
    ),
)

_BGE = (
    Family(
        name="BGE-M3",
        source=CARD + "BAAI/bge-m3",
        models=("baai/bge-m3*", "nlpai-lab/kure-v1", "deepvk/user-bge-m3"),
        pooling="cls",
        max_tokens=8192,
        note="its own sparse and multi-vector heads are not used here",
    ),
    FewShotFamily(
        name="BGE-ICL",
        source=CARD + "BAAI/bge-en-icl",
        models=("baai/bge-en-icl",),
        query="<instruct>{task}\n<query>",
        query_suffix="\n<response>",
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=4096,
        end_token=True,
        note="give FewShotFamily.with_examples(...) a few queries with their answers",
    ),
    Family(
        name="BGE multilingual Gemma2",
        source=CARD + "BAAI/bge-multilingual-gemma2",
        models=("baai/bge-multilingual-gemma2",),
        query="<instruct>{task}\n<query>",
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=4096,
        trained_tokens=512,
        unconfirmed="whether the end token closes a text: its tokenizer_config.json (add_eos_token) decides, as in "
        "FlagEmbedding, whose training sets it",
    ),
    Family(
        name="BGE Chinese",
        source=CARD + "BAAI/bge-large-zh-v1.5",
        models=("baai/bge-*-zh*",),
        query="为这个句子生成表示以用于检索相关文章：",
        pooling="cls",
        max_tokens=512,
    ),
    Family(
        name="BGE English",
        source=CARD + "BAAI/bge-large-en-v1.5",
        models=("baai/bge-*-en*", "whereisai/uae-large-v1"),
        query=BGE_QUERY,
        pooling="cls",
        max_tokens=512,
    ),
)

_GTE = (
    Family(
        name="GTE-Qwen2",
        source=CARD + "Alibaba-NLP/gte-Qwen2-7B-instruct",
        models=("alibaba-nlp/gte-qwen2-*-instruct", "alibaba-nlp/gte-qwen1.5-*-instruct"),
        query=INSTRUCT,
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=32768,
        end_token=True,
        remote_code=True,
        note="its own code lets attention look both ways; read causally its vectors are wrong",
    ),
    Family(
        name="INF-Retriever",
        source=CARD + "infly/inf-retriever-v1",
        models=("infly/inf-retriever-v1*",),
        query=INSTRUCT,
        task=WEB_SEARCH,
        pooling="last",
        max_tokens=8192,
        end_token=True,
        remote_code=True,
        note="made from GTE-Qwen2: its own code lets attention look both ways",
    ),
    Family(
        name="gte-modernbert",
        source=CARD + "Alibaba-NLP/gte-modernbert-base",
        models=("alibaba-nlp/gte-modernbert-base",),
        pooling="cls",
        max_tokens=8192,
    ),
    Family(
        name="gte-multilingual",
        source=CARD + "Alibaba-NLP/gte-multilingual-base",
        models=("alibaba-nlp/gte-multilingual-base", "alibaba-nlp-community/gte-multilingual-base"),
        pooling="cls",
        max_tokens=8192,
        dimensions=(128, 768),
        cut_anywhere=True,
        remote_code=True,
        note="alibaba-nlp-community/gte-multilingual-base holds it for transformers' own class",
    ),
    Family(
        name="GTE v1.5",
        source=CARD + "Alibaba-NLP/gte-large-en-v1.5",
        models=("alibaba-nlp/gte-*-en-v1.5",),
        pooling="cls",
        max_tokens=8192,
        remote_code=True,
    ),
    Family(
        name="GTE Chinese",
        source=CARD + "thenlper/gte-large-zh",
        models=("thenlper/gte-*-zh",),
        pooling="cls",
        max_tokens=512,
    ),
    Family(
        name="GTE",
        source=CARD + "thenlper/gte-large",
        models=("thenlper/gte-small", "thenlper/gte-base", "thenlper/gte-large"),
        max_tokens=512,
    ),
)

#: In order: the first family with a fitting pattern is taken, so narrower patterns come first.
FAMILIES: tuple[Family, ...] = (
    *_SENTENCE_TRANSFORMERS,
    *_E5,
    *_BGE,
    *_GTE,
    *ENCODERS,
    *DECODERS,
    *LIBRARY,
    *SERVED,
)
