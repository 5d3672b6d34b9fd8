"""The programs in examples/ run and print what they promise."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import demo, langchain_quickstart, llama_index_quickstart
from examples.asking import derived_questions, load_questions
from examples.generators import CannedAnswers, ChatEndpoint
from examples.stages import STAGES
from situate.app.cli import run
from situate.chunkers import MarkdownChunker, Prompt, read_documents
from situate.errors import GenerationError, PromptRefusedError
from situate.retrievers.storage.edge import EdgeClient
from tests.conftest import FULL, short_of
from tests.pdfs import report
from tests.rest_server import RestServer

EXAMPLES = Path(demo.__file__).parent
QUESTION = "What do I do if I lose the company credit card?"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The demo's output on the handbook: of its first run, and of a second with a question of one's own."""
    import contextlib
    import io

    store = tmp_path_factory.mktemp("store")
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        if not FULL:
            patch.setattr(demo, "load_questions", lambda file: load_questions(file)[::3])
        for question in ([], ["--question", QUESTION]):
            written = io.StringIO()
            with contextlib.redirect_stdout(written):
                assert demo.main(["--store", str(store), *question]) == 0
            shown.append(written.getvalue())
    return shown


def test_every_question_has_its_passage() -> None:
    chunks = [c for document in read_documents(EXAMPLES / "documents") for c in MarkdownChunker().split(document)]
    questions = load_questions(EXAMPLES / "questions.json")
    assert len(questions) > 50
    assert [q.text for q in questions if not any(q.is_answered_by(chunk) for chunk in chunks)] == []
    known = {q.text for q in questions}
    assert set(json.loads((EXAMPLES / "hypothetical_answers.json").read_text(encoding="utf-8"))) <= known


def test_the_demo_shows_what_the_techniques_change(output: list[str]) -> None:
    shown = " ".join(output[0].split())
    assert all(stage.name in shown for stage in STAGES)
    won = int(shown.split(" questions had the right passage not first")[0].split()[-1])
    assert won >= 3
    assert "canned answers, written beforehand; no model ran" in shown


def test_both_frameworks_return_the_same_passages(output: list[str]) -> None:
    shown = " ".join(output[0].split())
    same, total = shown.split("same three passages as LlamaIndex for ")[1].split(" questions")[0].split(" of ")
    # Vectors made in batches of another shape can differ in their last digits, and so can ties.
    assert int(same) >= int(total) - 2


def test_a_second_run_indexes_nothing_anew(output: list[str]) -> None:
    line = next(line for line in output[0].splitlines() if " chunks, model " in line)
    assert line in output[1].splitlines()
    assert "Freeze it in the banking app" in output[1]


def test_the_demo_shows_the_pages_of_a_pdf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.pdf").write_bytes(report())
    asked = ["--question", "Which inspector saw the boiler in the west?", "--store", ":memory:"]
    assert demo.main([str(tmp_path), *asked]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "page 3" in shown or "page 4" in shown


def test_the_demo_takes_json_lines_and_own_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    lines = [
        {"id": "1", "title": "Ferries", "text": "The ferry leaves at nine. It crosses the bay in an hour."},
        {"id": "2", "title": "Trains", "text": "The train to the coast is slow. It stops at every mill."},
        {"id": "3", "title": "Nothing", "text": "  "},
    ]
    (docs / "documents.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    store = ["--store", str(tmp_path / "store")]
    assert demo.main([str(docs), "--question", "When does the boat go?", *store]) == 0
    shown = capsys.readouterr().out
    assert "When does the boat go?" in shown
    assert "2 documents, 2 chunks" in shown
    assert demo.main([str(docs), *store]) == 0
    assert "The ferry leaves at nine. It crosses" in capsys.readouterr().out


@pytest.fixture(params=[*short_of(["served", "folder", "memory"], 3), "server"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The demo's arguments for each kind of store; "served" is a stand-in on this machine, over the same engine."""
    if request.param == "folder":
        yield ["--store", str(tmp_path / "store")]
    elif request.param == "memory":
        yield ["--store", ":memory:"]
    elif request.param == "served":
        monkeypatch.setenv("SITUATE_QDRANT_KEY", "a-secret")
        with EdgeClient() as client:
            server = RestServer(client, key="a-secret")
            yield ["--store", "http://127.0.0.1:9", "--store", server.url]
            server.stop()
            assert "POST /collections/" in " ".join(server.requests)
    elif url := os.environ.get("SITUATE_QDRANT_URL"):
        yield ["--store", url]
    else:
        pytest.skip("set SITUATE_QDRANT_URL to run the demo on a server")


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_the_demo_runs_on_every_store(tmp_path: Path, location: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The output does not depend on the place of the index."""
    docs = tmp_path / "docs"
    docs.mkdir()
    text = (EXAMPLES / "documents" / "expenses.md").read_text(encoding="utf-8")
    (docs / "expenses.md").write_text(text, encoding="utf-8")
    assert demo.main([str(docs), "--question", QUESTION, *location]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Freeze it in the banking app" in shown
    assert "1 documents, " in shown
    assert "LangChain returned the same three passages as LlamaIndex for 1 of 1 questions." in shown


def test_the_demo_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main([str(tmp_path / "nothing"), "--store", str(tmp_path / "s")]) == 1
    assert "does not exist" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert demo.main([str(tmp_path / "empty"), "--store", str(tmp_path / "s")]) == 1
    assert "no text" in " ".join(capsys.readouterr().out.split())


def test_the_report_needs_no_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    from examples.report import Report

    monkeypatch.setitem(sys.modules, "rich.console", None)
    report = Report()
    report.heading("Part")
    report.table("Title [x]", ["question", "rank"], [["a long [question] " * 12, "1"], ["b", "-"]])
    report.line("[done]")
    shown = capsys.readouterr().out
    assert "== Part ==" in shown
    assert "[question]" in shown
    assert "[done]" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_questions_are_derived_from_headings_or_first_words() -> None:
    documents = list(read_documents(EXAMPLES / "documents"))
    chunks = [chunk for document in documents for chunk in MarkdownChunker().split(document)]
    questions = derived_questions(chunks)
    assert len(questions) == 5
    assert len({question.document for question in questions}) == 5
    assert all(any(question.is_answered_by(chunk) for chunk in chunks) for question in questions)


def test_the_llama_index_quickstart_finds_the_passage() -> None:
    found = llama_index_quickstart.find(QUESTION)
    assert len(found) == 3
    assert "Freeze it in the banking app" in found[0].node.get_content()


def test_the_langchain_quickstart_finds_the_passage() -> None:
    found = langchain_quickstart.find(QUESTION)
    assert len(found) == 3
    assert "Freeze it in the banking app" in found[0].page_content


def test_the_chat_answers_from_the_handbook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ["--store", str(tmp_path / "store")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTION}\nHow long is the notice period?\n"))
    assert run(["index", str(EXAMPLES / "documents"), *store, "--json"]) == 0
    capsys.readouterr()
    assert run(["chat", *store]) == 0
    first, _, second = capsys.readouterr().out.partition("Three months to the end of a month")
    assert "Freeze it in the banking app" in first
    assert second
    assert "[4]" in first


async def test_missing_canned_answers_are_reported() -> None:
    canned = CannedAnswers({"Why?": ["Because."]})
    assert await canned.agenerate([Prompt("Question: Why?")]) == ["Because."]
    with pytest.raises(GenerationError, match="configure a language model"):
        canned.generate([Prompt("Question: Where?")])


async def test_the_chat_endpoint_speaks_the_usual_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        requests.append(head + await reader.readexactly(length))
        broken = b"broken" in requests[-1]
        usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
        answer = {
            "choices": [{"message": {"content": "Yes."}}],
            "usage": None if b"uncounted" in requests[-1] else usage,
        }
        body = b"{}" if broken else json.dumps(answer).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("SITUATE_LLM_URL", f"http://127.0.0.1:{port}/v1/")
    monkeypatch.setenv("SITUATE_LLM_MODEL", "small")
    monkeypatch.setenv("SITUATE_LLM_KEY", "a-secret")
    endpoint = ChatEndpoint.from_environment()
    assert endpoint is not None
    assert "a-secret" not in repr(endpoint)
    async with server:
        assert await endpoint.agenerate([Prompt("Well?", prefix="A document. ", system="Be brief.")]) == ["Yes."]
        sent = json.loads(requests[0].split(b"\r\n\r\n", 1)[1])
        assert requests[0].startswith(b"POST /v1/chat/completions")
        assert b"Bearer a-secret" in requests[0]
        assert [message["content"] for message in sent["messages"]] == ["Be brief.", "A document. Well?"]
        assert endpoint.usage == {"prompt_tokens": 12, "completion_tokens": 2}
        assert await endpoint.agenerate([Prompt("uncounted")]) == ["Yes."]
        assert endpoint.usage == {"prompt_tokens": 12, "completion_tokens": 2}
        with pytest.raises(GenerationError) as caught:
            await endpoint.agenerate([Prompt("broken")])
        assert "a-secret" not in str(caught.value)
        await endpoint.aclose()


async def test_the_chat_endpoint_tells_a_refused_prompt_from_a_failure() -> None:
    import asyncio

    statuses = iter([b"400 Bad Request", b"503 Service Unavailable"])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % next(statuses))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "small")
    async with server:
        with pytest.raises(PromptRefusedError, match="status 400"):
            await endpoint.agenerate([Prompt("far too long")])
        with pytest.raises(GenerationError) as failed:
            await endpoint.agenerate([Prompt("Well?")])
        await endpoint.aclose()
    assert not isinstance(failed.value, PromptRefusedError)


async def test_the_chat_endpoint_sends_only_so_many_requests_at_once() -> None:
    import asyncio

    under_way = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)  # long enough for every request that may be sent to arrive
        under_way -= 1
        body = json.dumps({"choices": [{"message": {"content": "Yes."}}]}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = ChatEndpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "small", concurrency=3)
    async with server:
        assert await endpoint.agenerate([Prompt(f"Well, {i}?") for i in range(10)]) == ["Yes."] * 10
        await endpoint.aclose()
    assert 1 <= most <= 3
