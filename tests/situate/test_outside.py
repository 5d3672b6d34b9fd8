"""Untrusted JSON is read within bounds, and no error's text shows a key."""

from __future__ import annotations

import copy
import json
import pickle
import time

import pytest

from situate.errors import GenerationError, InputError, ModelError, ServerError
from situate.outside import MAX_JSON_DEPTH, MAX_MESSAGE, Secret, load_json, safe_message, safe_text

KEYS = [
    "sk-proj-Ab12Cd34Ef56Gh78Ij90",
    "hf_AbCdEfGhIjKlMnOpQrStUv",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "xoxb-123456789012-abcdefGHIJKL",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "0123456789abcdef0123456789abcdef",
    "sk-secret",
]


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
@pytest.mark.parametrize("depth", [MAX_JSON_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("closed", [True, False])
def test_nested_json_is_an_error_of_the_given_class(open_: str, close: str, depth: int, closed: bool) -> None:
    text = open_ * depth + "1" + close * depth * closed
    for data in (text, text.encode()):
        with pytest.raises(ModelError, match=r"config\.json (holds JSON nested deeper than 100 levels|is not JSON)"):
            load_json(data, "config.json", ModelError)


def test_json_within_the_limits_is_what_json_says() -> None:
    depth = MAX_JSON_DEPTH
    nested = load_json("[" * depth + "]" * depth, "x")
    assert json.dumps(nested) == "[" * depth + "]" * depth
    value = {"data": [{"index": 0, "embedding": [0.5, -1e-3, 2]}] * 3, "text": "{[é", "none": None}
    assert load_json(json.dumps(value).encode("utf-16"), "x") == value
    wide = load_json("[" + ",".join(["[1,2]"] * 20_000) + "]", "x")
    assert len(wide) == 20_000


@pytest.mark.parametrize("data", ["", "{", "nonsense", b"\xff\xfe\x00", "[1,]", "1" * 5_000])
def test_what_is_no_json_is_an_error(data: str | bytes) -> None:
    with pytest.raises(InputError, match="the answer is not JSON"):
        load_json(data, "the answer")


def test_long_json_is_refused_before_it_is_read() -> None:
    with pytest.raises(ServerError, match=r"x has 1,002 bytes of JSON, more than the 1,000"):
        load_json('"' + "a" * 1_000 + '"', "x", ServerError, max_bytes=1_000)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "form",
    [
        "api key {} refused",
        "Incorrect API key provided: {}.",
        "401 for Authorization: Bearer {}",
        "{{'authorization': 'Bearer {}'}}",
        'headers {{"x-api-key": "{}", "accept": "json"}}',
        "GET https://example.org/v1?api_key={}&page=2 failed",
        "https://user:{}@example.org/v1 cannot be reached",
        "token={}, tried twice",
        "the password is {}",
        "({})",
        "{}",
    ],
)
def test_no_key_is_in_a_safe_message(key: str, form: str) -> None:
    message = safe_message(RuntimeError(form.format(key)))
    assert key not in message
    assert key[3:12] not in message
    assert message.startswith("RuntimeError: ")
    assert "[key]" in message


def test_short_passwords_and_masked_keys_are_left_out_too() -> None:
    assert safe_text("http://me:hunter2@host:6333/x") == "http://[key]@host:6333/x"
    assert safe_text("password=hunter2; user=me") == "password=[key]; user=me"
    assert "7890" not in safe_text("Incorrect API key provided: sk-sec***7890")


@pytest.mark.parametrize(
    "text",
    [
        "password: 'SECRET with SECRET'",
        'refused {{"client_secret": "a SECRET"}}',
        "Authorization: Token SECRET",
        "Authorization: ApiKey SECRET",
        "{'Authorization': 'Bearer SECRET'}",
        "GET https://host/v1?key=SECRET&alt=json",
        "postgres://me:p@SECRET@host/db",
        "openaiApiKey=SECRET",
        "PGPASSWORD=SECRET psql",
        "AccountName=me;AccountKey=SECRET+/==;EndpointSuffix=x",
        "Ocp-Apim-Subscription-Key: SECRET",
        "Set-Cookie: SECRET=1; path=/",
        "pplx-SECRET1234",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE+/x\nSECRET\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----\nSECRET",
    ],
)
def test_no_form_of_a_key_is_shown(text: str) -> None:
    shown = safe_text(text)
    assert "SECRET" not in shown
    assert "[key]" in shown


@pytest.mark.parametrize(
    "text",
    [
        "model 'sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2' is not served",
        "HTTP 429: rate limit of 3 requests per second, try again in 20 s",
        "chunk 8a6b3c1e-5d1f-5b7a-9c7e-0d2f4b6a8c9e has no text",
        "maximum context length is 8192 tokens, got 9001 (input token count)",
        "/home/user/models/tokenizer.json: No such file or directory",
        "invalid x-api-key: [key]",
        "https://host/v1?monkey=1&page=2: the design: a token is missing",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    assert safe_text(text) == text


def test_messages_are_bounded_and_on_one_line() -> None:
    long = safe_message(ValueError("word\nword\t" * 100_000))
    assert len(long) <= MAX_MESSAGE
    assert "\n" not in long
    # a key that the bound cuts in two is not shown by half
    for at in range(3_950, 4_010):
        assert "proj" not in safe_text("a " * (at // 2) + " " * (at % 2) + KEYS[0], 10_000)
    assert safe_message(KeyError()) == "KeyError"


@pytest.mark.parametrize("text", ["a" * 10**6, "://" * 10**6, "token" * 10**6, "api key " * 10**6, "1a" * 10**6])
def test_hostile_messages_take_no_time(text: str) -> None:
    started = time.process_time()
    safe_text(text)
    assert time.process_time() - started < 1


def test_an_error_that_cannot_be_written_is_named() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert safe_message(Broken()).startswith("Broken: ")
    assert safe_message(GenerationError("no answer")) == "GenerationError: no answer"


def test_a_secret_shows_nothing_and_travels() -> None:
    secret = Secret(KEYS[0])
    for shown in (repr(secret), str(secret), f"{secret}", repr([secret])):
        assert KEYS[0] not in shown
    assert KEYS[0].encode() not in pickle.dumps(secret)
    for twin in (pickle.loads(pickle.dumps(secret)), copy.deepcopy(secret)):
        assert twin == secret
        assert twin.reveal() == KEYS[0]
    assert secret != Secret("another")
