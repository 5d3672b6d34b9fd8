"""Tokens of a text with the exact characters that each stands for."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers, processors

from situate.embedders.models.files import loading, read_object
from situate.embedders.models.resolve import SAFE, LoadOptions
from situate.embedders.text.pieces import cuts, may_be_cut
from situate.errors import ConventionError, ModelError, ModelNotFoundError

Ids = NDArray[np.int64]
Offsets = NDArray[np.int64]

#: Characters that are tokenized in one call where the text may be cut; 0.3 GB of the library's memory at most.
_PIECE = 1_000_000
#: Characters up to which a single text is tokenized in the caller's thread.
_QUERY = 1_000
#: Tokens whose offsets are fetched as Python objects (100 bytes each) at a time.
_FETCHED = 1 << 16
_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


class TokenizedText:
    """The tokens of one text, without special tokens.

    Attributes:
        text: The text.
        ids: int64 ``[tokens]``.
    """

    def __init__(self, text: str, ids: Ids, offsets: Offsets | None) -> None:
        self.text = text
        self.ids = ids
        self._raw_offsets = offsets

    @cached_property
    def offsets(self) -> Offsets:
        """int64 ``[tokens, 2]``: the ``[start, end)`` characters of each token, white space at its ends left out.

        SentencePiece and byte-level vocabularies glue the blank before a word to the word; without the trim, a span
        that ends in a blank would pool the first word of the next one.

        Raises:
            ConventionError: The tokenizer keeps no offsets and they could not be recovered.
        """
        if self._raw_offsets is None:
            raise ConventionError(
                "the model's tokenizer does not say which characters a token stands for, so spans cannot be pooled: "
                "use a model folder with a tokenizer.json, or encode whole texts (spans=None)"
            )
        return _trimmed(self.text, self._raw_offsets)


class TextTokenizer:
    """A model's own tokenizer with truncation and padding off, and the special tokens that it puts around a text.

    Args:
        backend: The tokenizer; it is changed (truncation and padding are switched off), so pass a copy.
        slow: A tokenizer in plain Python, for models that have no other.
        add_special_tokens: Whether special tokens are put around a text.
    """

    def __init__(self, backend: Tokenizer | None, slow: Any = None, *, add_special_tokens: bool = True) -> None:
        self.backend = backend
        self._slow = slow
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
        self.leading, self.trailing = self._special_tokens() if add_special_tokens else (_ids([]), _ids([]))

    @classmethod
    def load(
        cls,
        folder: Path,
        options: LoadOptions = SAFE,
        *,
        add_special_tokens: bool = True,
        end_token: bool = False,
        leading: str = "",
    ) -> TextTokenizer:
        """The tokenizer of a model folder; from ``tokenizer.json`` where there is one, which needs no torch.

        Args:
            folder: The model's folder.
            options: Whether the folder's own Python files may run.
            add_special_tokens: Whether special tokens are put around a text.
            end_token: Close every text with the end token also where the tokenizer itself closes it with nothing.
            leading: The token that takes the place of the special ones before a text; "": the tokenizer's own.

        Raises:
            ConventionError: The vocabulary has no such token.
            ModelNotFoundError: The folder holds no tokenizer that can be loaded.
            ModelError: A file is damaged.
        """
        file = folder / "tokenizer.json"
        config = read_object(folder / "tokenizer_config.json")
        slow = None
        if file.is_file():
            with loading("the tokenizer", folder):
                backend: Tokenizer | None = _with_bos_eos(Tokenizer.from_file(str(file)), config)
        else:
            backend, slow = _through_transformers(folder, options.trust_remote_code)
        if backend is not None and read_object(folder / "sentence_bert_config.json").get("do_lower_case"):
            # As a normalizer, not text.lower(): lower-casing can change a text's length, and offsets must stay true.
            inner = backend.normalizer
            lower = normalizers.Lowercase()
            backend.normalizer = lower if inner is None else normalizers.Sequence([lower, inner])
        found = cls(backend, slow, add_special_tokens=add_special_tokens)
        if add_special_tokens and not len(found.trailing) and (end_token or _asks_for_end_token(config)):
            found.trailing = found.end_ids(config)
        if add_special_tokens and leading:
            found.leading = found._one_token(leading, folder)
        return found

    def _one_token(self, token: str, folder: Path) -> Ids:
        found = None if self.backend is None else self.backend.token_to_id(token)
        if found is None:
            raise ConventionError(f"the tokenizer in {str(folder)!r} has no token {token!r} to put before a text")
        return _ids([found])

    def end_ids(self, config: dict[str, Any]) -> Ids:
        """The end token that ``tokenizer_config.json`` names, if the vocabulary has it."""
        token = _token_text(config.get("eos_token"))
        if self.backend is None:
            token = token or self._slow.eos_token
            found = None if token is None else self._slow.convert_tokens_to_ids(token)
        else:
            found = None if token is None else self.backend.token_to_id(token)
        return _ids([]) if found is None else _ids([found])

    def meaningless(self, folder: Path) -> Ids:
        """Ids of the tokens for padding and for what the vocabulary does not know, as far as the folder names them."""
        config = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")
        named = [text for kind in ("pad", "unk") if (text := _token_text(config.get(f"{kind}_token"))) is not None]
        if self.backend is None:
            return _ids(self._slow.convert_tokens_to_ids(named))
        return _ids([number for text in named if (number := self.backend.token_to_id(text)) is not None])

    @property
    def special_count(self) -> int:
        """How many special tokens a sequence carries."""
        return len(self.leading) + len(self.trailing)

    def tokenize(self, texts: Sequence[str], *, offsets: bool = True) -> list[TokenizedText]:
        """The tokens of each text. A lone surrogate, which no tokenizer reads, is read as U+FFFD."""
        if self.backend is None:
            return [self._tokenize_slowly(_readable(text)) for text in texts]
        if any(len(text) > _PIECE for text in texts):
            short = iter(self.tokenize([text for text in texts if len(text) <= _PIECE], offsets=offsets))
            return [
                next(short) if len(text) <= _PIECE else self._tokenize_long(text, offsets=offsets) for text in texts
            ]
        try:
            encodings = self._encodings(self.backend, list(texts), offsets)
        except (TypeError, UnicodeEncodeError):
            texts = [_readable(text) for text in texts]
            encodings = self._encodings(self.backend, texts, offsets)
        return [
            TokenizedText(text, np.array(encoding.ids, dtype=np.int64), _offsets(encoding) if offsets else None)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    @staticmethod
    def _encodings(backend: Tokenizer, texts: list[str], offsets: bool) -> list[Encoding]:
        if len(texts) == 1 and len(texts[0]) <= _QUERY:
            # A batch goes to the tokenizer's threads, and a query would wait for one to wake up. A long text goes there
            # too: otherwise it would hold the interpreter meanwhile.
            return [backend.encode(texts[0], add_special_tokens=False)]
        # The fast form keeps no offsets, which are half of the work.
        batch = backend.encode_batch if offsets else backend.encode_batch_fast
        return batch(texts, add_special_tokens=False)

    def _tokenize_long(self, text: str, *, offsets: bool) -> TokenizedText:
        """`tokenize` of one text, piece by piece where that gives the same tokens."""
        assert self.backend is not None
        text = _readable(text)
        bounds = [0, *self._cuts(text), len(text)]
        ids, found = [], []
        for first, last in itertools.pairwise(bounds):
            (encoding,) = self._encodings(self.backend, [text[first:last]], offsets)
            ids.append(np.array(encoding.ids, dtype=np.int64))
            if offsets:
                found.append(_offsets(encoding) + first)
        return TokenizedText(text, np.concatenate(ids), np.concatenate(found) if offsets else None)

    def _cuts(self, text: str) -> list[int]:
        if len(text) <= _PIECE or not self._may_be_cut:
            return []
        assert self.backend is not None
        return cuts(text, _PIECE, [token.content for token in self.backend.get_added_tokens_decoder().values()])

    @cached_property
    def _may_be_cut(self) -> bool:
        return self.backend is not None and may_be_cut(self.backend)

    def words(self, ids: Ids) -> list[str]:
        """Each token's text in the vocabulary."""
        if self.backend is None:
            return [str(token) for token in self._slow.convert_ids_to_tokens(ids.tolist())]
        return [self.backend.id_to_token(number) or "" for number in ids.tolist()]

    def tokenize_apart(self, text: str, prefix: int, suffix: int) -> TokenizedText:
        """The tokens of one text whose first ``prefix`` and last ``suffix`` characters are tokenised by themselves."""
        end = max(prefix, len(text) - suffix)
        bounds = [(0, prefix), (prefix, end), (end, len(text))]
        parts = self.tokenize([text[first:last] for first, last in bounds])
        offsets = [part.offsets + first for part, (first, _) in zip(parts, bounds, strict=True)]
        return TokenizedText(text, np.concatenate([part.ids for part in parts]), np.concatenate(offsets))

    def _special_tokens(self) -> tuple[Ids, Ids]:
        if self.backend is None:
            probe = self._slow("a", add_special_tokens=True)["input_ids"]
            bare = self._slow("a", add_special_tokens=False)["input_ids"]
            lead = next((i for i in range(len(probe)) if probe[i : i + len(bare)] == bare), 0)
            return _ids(probe[:lead]), _ids(probe[lead + len(bare) :])
        encoding = self.backend.encode("a")
        ids, special = encoding.ids, encoding.special_tokens_mask
        lead = next((i for i, flag in enumerate(special) if not flag), len(ids))
        trail = next((i for i, flag in enumerate(reversed(special)) if not flag), 0)
        return _ids(ids[:lead]), _ids(ids[len(ids) - trail :])

    def _tokenize_slowly(self, text: str) -> TokenizedText:
        ids = self._slow(text, add_special_tokens=False)["input_ids"]
        surfaces = [self._slow.convert_tokens_to_string([token]) for token in self._slow.convert_ids_to_tokens(ids)]
        return TokenizedText(text, _ids(ids), recovered_offsets(text, surfaces))


def recovered_offsets(text: str, surfaces: Sequence[str]) -> Offsets | None:
    """Where each token's surface stands in the text, for tokenizers without offsets; None if they do not align.

    Surfaces are searched for in order, case ignored. One that is not found (an unknown token) takes the characters
    between its neighbours; two such in a row are ambiguous.
    """
    lowered = text.lower()
    if len(lowered) != len(text):
        lowered = text
    offsets = np.zeros((len(surfaces), 2), dtype=np.int64)
    cursor, unknown = 0, -1
    for i, surface in enumerate(surfaces):
        wanted = surface.strip().lower()
        at = lowered.find(wanted, cursor) if wanted else -1
        # The text between must be white space or belong to one unknown token.
        if at < 0 or (unknown < 0 and lowered[cursor:at].strip()):
            if unknown >= 0:
                return None
            unknown = i
            continue
        if unknown >= 0:
            offsets[unknown] = _stripped(text, cursor, at)
            unknown = -1
        offsets[i] = at, at + len(wanted)
        cursor = at + len(wanted)
    if unknown >= 0:
        offsets[unknown] = _stripped(text, cursor, len(text))
    elif text[cursor:].strip():
        return None
    return offsets


def _offsets(encoding: Encoding) -> Offsets:
    """int64 ``[tokens, 2]``; in parts, because the library returns a list of tuples, ten times as large."""
    tokens = len(encoding)
    if tokens <= _FETCHED:
        return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    offsets = np.empty((tokens, 2), dtype=np.int64)
    for start in range(0, tokens, _FETCHED):
        part = range(start, min(start + _FETCHED, tokens))
        # None is for special tokens, and there are none in it.
        offsets[part.start : part.stop] = [encoding.token_to_chars(token) or (0, 0) for token in part]
    return offsets


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    return start, start + len(piece.strip())


def _trimmed(text: str, offsets: Offsets) -> Offsets:
    if not len(offsets):
        return offsets
    codepoints = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    blank = _IS_BLANK[np.minimum(codepoints, len(_IS_BLANK) - 1)]
    starts, ends = offsets[:, 0].copy(), offsets[:, 1].copy()
    while (move := (starts < ends - 1) & blank[np.minimum(starts, len(blank) - 1)]).any():
        starts[move] += 1
    while (move := (starts < ends - 1) & blank[ends - 1]).any():
        ends[move] -= 1
    return np.stack([starts, ends], axis=1)


#: Code point -> whether it is white space; the last entry stands for all that come after it, which are none.
_IS_BLANK = np.array([chr(c).isspace() for c in range(0x3002)])


#: In transformers before 5 ``add_eos_token`` overrides the template in tokenizer.json for these, which is how decoders
#: like E5-mistral were trained and published; transformers 5 reads the template alone.
_END_TOKEN_CLASSES = frozenset({"LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"})


def _asks_for_end_token(config: dict[str, Any]) -> bool:
    return config.get("add_eos_token") is True and config.get("tokenizer_class") in _END_TOKEN_CLASSES


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _with_bos_eos(tokenizer: Tokenizer, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer with the begin and end tokens that ``tokenizer_config.json`` asks for.

    In transformers those two settings override tokenizer.json for the decoders' tokenizers that have no template of
    their own.
    """
    if tokenizer.post_processor is None or isinstance(tokenizer.post_processor, processors.ByteLevel):
        names = {}
        for kind in ("bos", "eos"):
            token = _token_text(config.get(f"{kind}_token"))
            if config.get(f"add_{kind}_token") and token is not None:
                identifier = tokenizer.token_to_id(token)
                if identifier is not None:
                    names[kind] = (token, identifier)
        if names:
            bos = f"{names['bos'][0]}:0 " if "bos" in names else ""
            eos = f" {names['eos'][0]}:0" if "eos" in names else ""
            template = processors.TemplateProcessing(
                single=f"{bos}$A:0{eos}", pair=f"{bos}$A:0{eos} {bos}$B:1{eos}", special_tokens=list(names.values())
            )
            inner = tokenizer.post_processor
            tokenizer.post_processor = template if inner is None else processors.Sequence([inner, template])
    return tokenizer


def _through_transformers(folder: Path, trust_remote_code: bool) -> tuple[Tokenizer | None, Any]:
    from transformers import AutoTokenizer

    try:
        with loading("the tokenizer", folder):
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), local_files_only=not trust_remote_code, trust_remote_code=trust_remote_code
            )
    except ModelError as error:
        raise ModelNotFoundError(
            f"no tokenizer could be loaded from {str(folder)!r} ({error}): the folder needs a tokenizer.json or the "
            "vocabulary files that transformers' AutoTokenizer reads"
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if isinstance(backend, Tokenizer):
        return Tokenizer.from_str(backend.to_str()), None
    return None, tokenizer


def _readable(text: str) -> str:
    return _LONE_SURROGATES.sub("\ufffd", text)


def _ids(values: Sequence[int]) -> Ids:
    return np.array(values, dtype=np.int64)
