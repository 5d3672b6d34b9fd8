"""The chat application over HTTP: documents, answers, sources, conversations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from situate.app.cli import run
from situate.app.web import WebLimits, create_configured_app
from situate.app.web.answers.answering import MODEL_BROKE_OFF, MODEL_FAILED, NOTHING
from situate.app.web.settings import Place
from situate.chunkers import Document, read_documents
from situate.errors import InputError
from tests.app.web.conftest import LEAVE, TRAVEL, LanguageModel, Running, add, ask, events, until, written
from tests.app.web.pdf import pdf
from tests.conftest import FULL

Start = Callable[..., Running]
LEAVE_QUESTION = "How long is parental leave?"


def test_documents_are_uploaded_listed_asked_about_and_deleted(start: Start) -> None:
    with start().client() as client:
        until(lambda: client.get("/readyz").status_code == 200)
        add(client, "leave.md", LEAVE)
        add(client, "travel.md", TRAVEL)
        leave, travel = client.get("/api/collections/documents/documents").json()
        assert travel["id"] == "travel.md"
        assert (leave["id"], leave["state"], leave["bytes"]) == ("leave.md", "ready", len(LEAVE))
        assert leave["chunks"] > 0
        made = dict(ask(client, LEAVE_QUESTION))
        first = made["passages"]["passages"][0]
        assert (first["document"], first["title"], first["headings"]) == ("leave.md", "Leave", ["Parental leave"])
        # Without a model the answer is the best span of the best passages, with their numbers.
        assert written(list(made.items())).startswith("Parents take twelve weeks of leave, paid in full. [1]")
        assert (made["done"]["kind"], made["done"]["cited"][0]) == ("extract", 1)
        # The passage in its document: the whole text, the passage and its marked spans apart.
        a, b = first["marks"][0]
        marks = f"{first['start'] + a}-{first['start'] + b}"
        query = {"id": "leave.md", "start": first["start"], "end": first["end"], "marks": marks}
        view = client.get("/api/collections/documents/view", params=query).json()
        assert "".join(part["text"] for part in view["parts"]).split() == LEAVE.split()
        marked = [part["text"] for part in view["parts"] if part["marked"]]
        assert marked == ["Parents take twelve weeks of leave, paid in full."]
        assert "".join(part["text"] for part in view["parts"] if part["passage"]) == first["text"]
        # Uploaded again, a document is replaced; deleted, it is found no more.
        add(client, "leave.md", LEAVE.replace("twelve", "fourteen"))
        assert "fourteen" in written(ask(client, LEAVE_QUESTION))
        assert client.delete("/api/collections/documents/documents", params={"id": "leave.md"}).status_code == 204
        assert [one["id"] for one in client.get("/api/collections/documents/documents").json()] == ["travel.md"]
        assert "fourteen" not in written(ask(client, LEAVE_QUESTION))
        assert client.get("/api/collections/documents/view", params=query).status_code == 404


def test_a_question_without_a_relevant_passage_finds_nothing(start: Start, model: LanguageModel) -> None:
    with start(model).client() as client:
        add(client, "leave.md", LEAVE)
        add(client, "travel.md", TRAVEL)
        made = ask(client, "Which volcano erupted in Iceland?")
        assert written(made) == NOTHING
        assert made[-1][1]["kind"] == "nothing"
        assert not model.asked, "the model is not asked to invent an answer"


def test_answers_stream_with_citations_and_follow_ups_are_rewritten(start: Start, model: LanguageModel) -> None:
    with start(model).client() as client:
        add(client, "leave.md", LEAVE)
        model.pieces = ["<think>Which passage", " is it?</think>Twelve ", "weeks ", "[1]."]
        made = ask(client, LEAVE_QUESTION)
        assert [data["text"] for name, data in made if name == "text"] == ["Twelve ", "weeks ", "[1]."]
        assert (made[-1][1]["kind"], made[-1][1]["cited"]) == ("model", [1])
        sent = model.asked[0]["messages"]
        assert "<passage-1>" in sent[1]["content"]
        assert "Parents take twelve weeks" in sent[1]["content"]
        conversation = made[-1][1]["conversation"]
        model.rewritten = ["Who pays for parental leave?"]
        again = dict(ask(client, "And who pays?", conversation))
        assert again["search"]["queries"] == ["Who pays for parental leave?"]
        assert again["done"]["conversation"] == conversation
        assert "user: How long is parental leave?" in model.asked[-1]["messages"][1]["content"]
        kept = client.get(f"/api/collections/documents/conversations/{conversation}").json()
        assert [message["text"] for message in kept] == [
            LEAVE_QUESTION,
            "Twelve weeks [1].",
            "And who pays?",
            kept[3]["text"],
        ]
        assert kept[1]["passages"][0]["document"] == "leave.md"
        (listed,) = client.get("/api/collections/documents/conversations").json()
        assert listed["title"] == LEAVE_QUESTION
        client.delete(f"/api/collections/documents/conversations/{conversation}")
        assert client.get("/api/collections/documents/conversations").json() == []
        assert ask_fails(client, "And who pays?", conversation) == "there is no such conversation: begin a new one"


def ask_fails(client: httpx.Client, question: str, conversation: str | None) -> str:
    """The error of a question, told in its stream."""
    made = ask(client, question, conversation)
    assert [name for name, _ in made] == ["error"]
    return str(made[0][1]["error"])


@pytest.mark.parametrize("fault", ["refuses", "away", "silent", "slow", "empty"])
def test_without_the_model_the_best_passages_are_the_answer(start: Start, model: LanguageModel, fault: str) -> None:
    running = start(model, limits=WebLimits(model_seconds=0.3))
    if fault == "refuses":
        model.status = 401
    elif fault == "away":
        running.app.state.services.generator._connection.settings.__dict__["base_url"] = "http://127.0.0.1:9/v1"
    elif fault == "silent":
        model.pieces = [5.0]
    elif fault == "slow":
        model.pieces = ["Twelve ", 5.0, "weeks"]
    elif fault == "empty":
        model.pieces = ["<think>Hm.</think>"]
    with running.client() as client:
        add(client, "leave.md", LEAVE)
        made = ask(client, LEAVE_QUESTION)
    (notice,) = [data["text"] for name, data in made if name == "notice"]
    if fault == "slow":
        assert (notice, written(made)) == (MODEL_BROKE_OFF, "Twelve ")
    else:
        assert notice == MODEL_FAILED
        assert written(made).startswith("Parents take twelve weeks of leave")
    assert made[-1][0] == "done"
    assert "sk-a-secret" not in str(made)
    model.resume.set()


def test_an_answer_is_kept_where_its_reader_goes_away(start: Start, model: LanguageModel) -> None:
    model.pieces = ["Twelve ", "weeks ", *[0.05, "and "] * 200]
    with start(model).client() as client:
        add(client, "leave.md", LEAVE)
        with client.stream("POST", "/api/collections/documents/ask", json={"question": LEAVE_QUESTION}) as response:
            for line in response.iter_lines():
                if "weeks" in line and line.startswith("data") and "passages" not in line:
                    break
        until(lambda: client.get("/api/collections/documents/conversations").json())
        (kept,) = client.get("/api/collections/documents/conversations").json()
        messages = client.get(f"/api/collections/documents/conversations/{kept['id']}").json()
        assert messages[1]["text"].startswith("Twelve weeks")
        # The request to the model ends, too: it is not paid for an answer that is not read.
        assert model.left.wait(10)


def test_collections_are_made_apart_and_deleted(start: Start) -> None:
    with start(limits=WebLimits(collections=2)).client() as client:
        assert client.post("/api/collections", json={"name": "travel"}).status_code == 201
        assert client.get("/api/collections").json() == ["documents", "travel"]
        assert "as many as may be" in client.post("/api/collections", json={"name": "more"}).json()["error"]
        assert "is no name of a collection" in client.post("/api/collections", json={"name": "../x"}).json()["error"]
        add(client, "travel.md", TRAVEL, "travel")
        assert client.get("/api/collections/documents/documents").json() == []
        assert written(ask(client, "What may a hotel cost?")) == NOTHING
        assert "180 euros" in written(ask(client, "What may a hotel cost?", collection="travel"))
        assert client.delete("/api/collections/travel").status_code == 204
        assert client.get("/api/collections/travel/documents").status_code == 404
        assert client.post("/api/collections", json={"name": "travel"}).status_code == 201
        assert client.get("/api/collections/travel/documents").json() == []


def test_what_waits_is_read_after_a_restart(start: Start, tmp_path: Path) -> None:
    """A server that stops leaves files for the next, which also finds all that was indexed."""
    settings = {"path": tmp_path / "index", "folder": tmp_path / "chat"}
    first = start(**settings)
    with first.client() as client:
        add(client, "leave.md", LEAVE)
    records = first.app.state.services.library.records
    first.stop()
    record = records.document(Place("local"), "leave.md")
    records.put(Place("local"), replace(record, state="indexing", added=record.added + 1))
    with start(**settings).client() as client:
        assert "twelve weeks" in written(ask(client, LEAVE_QUESTION))
        until(lambda: client.get("/api/collections/documents/documents").json()[0]["state"] == "ready")


def test_many_users_ask_at_once(start: Start, model: LanguageModel) -> None:
    """No answer ends before all have begun: thirty in the long form."""
    running = start(model)
    with running.client() as client:
        add(client, "leave.md", LEAVE)
        add(client, "travel.md", TRAVEL)
    model.pieces = ["It is ", 60.0, "so [1]."]
    questions = [LEAVE_QUESTION, "What may a hotel cost?", "When is a doctor's note needed?"] * (10 if FULL else 3)
    path = f"{running.url}/api/collections/documents/ask"

    async def all_at_once() -> list[list[tuple[str, dict[str, object]]]]:
        async with httpx.AsyncClient(timeout=60) as client, asyncio.timeout(120):
            asked = [asyncio.create_task(client.post(path, json={"question": each})) for each in questions]
            await asyncio.to_thread(until, lambda: len(model.asked) == len(questions))
            model.resume.set()
            return [events(response) for response in await asyncio.gather(*asked)]

    answers = asyncio.run(all_at_once())
    for question, made in zip(questions, answers, strict=True):
        assert written(made) == "It is so [1]."
        first = dict(made)["passages"]["passages"][0]
        assert first["document"] == ("travel.md" if "hotel" in question else "leave.md")


def test_a_configuration_describes_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "situate.yaml"
    lines = [
        "store: index",
        "language_model: {model: small, url: 'http://localhost:9/v1'}",
        "chat: {folder: chat, title: Handbook, tenants: {acme: {api_key: '${ACME_KEY}'}}}",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.delenv("ACME_KEY", raising=False)
    with pytest.raises(InputError, match="ACME_KEY, which is not set"):
        create_configured_app(file)
    monkeypatch.setenv("ACME_KEY", "acme-key-of-many-letters")
    services = create_configured_app(file).state.services
    assert services.settings.tenants == ("acme",)
    assert services.settings.sources == (tmp_path,), "the folder of the store, from which `situate index` counts"
    assert services.settings.home == tmp_path / "chat"
    assert services.generator.model == "small"


def test_a_page_of_a_pdf_is_drawn_with_its_passage_marked(start: Start) -> None:
    lines = ["Parents take twelve weeks of leave, paid in full.", "It may be split into two parts."]
    with start().client() as client:
        add(client, "handbook.pdf", pdf([["A handbook of the company."], ["Parental leave", *lines]]))
        (_, passages, *_) = ask(client, LEAVE_QUESTION)
        passage = passages[1]["passages"][0]
        a, b = passage["marks"][0]
        query = {"id": "handbook.pdf", "page": 2, "marks": f"{passage['start'] + a}-{passage['start'] + b}"}

        def drawn(**changes: object) -> set[tuple[int, int]]:
            """The places of the marked pixels, in points."""
            response = client.get("/api/collections/documents/page", params={**query, **changes})
            assert response.headers["content-type"] == "image/png", response.text
            image = Image.open(BytesIO(response.content)).convert("RGB")
            assert image.size == (1224, 1584)
            pixels = np.asarray(image).astype(int)
            ys, xs = np.nonzero(pixels[:, :, 0] - pixels[:, :, 2] > 60)
            return set(zip((xs // 2).tolist(), (ys // 2).tolist(), strict=True))

        marked = drawn()
        # The sentence's line, 20 points under the heading and 72 from the left, and not the line below it.
        assert {min(x for x, _ in marked) // 10, max(x for x, _ in marked) // 100} == {7, 3}
        assert any(80 < y < 95 for _, y in marked)
        assert max(y for _, y in marked) < 100
        assert drawn(page=1) == set(), "the passage stands on another page"
        assert client.get("/api/collections/documents/view", params={"id": "handbook.pdf"}).json()["pdf"] is True
        assert (
            "no such page" in client.get("/api/collections/documents/page", params={**query, "page": 9}).json()["error"]
        )
        assert (
            "marks are spans"
            in client.get("/api/collections/documents/page", params={**query, "marks": "x"}).json()["error"]
        )
        add(client, "leave.md", LEAVE)
        assert client.get("/api/collections/documents/page", params={**query, "id": "leave.md"}).status_code == 404


def test_a_pdf_that_was_indexed_elsewhere_shows_its_page(start: Start, tmp_path: Path) -> None:
    docs, outside = tmp_path / "docs", tmp_path / "outside"
    for folder in (docs, outside):
        folder.mkdir()
    (docs / "handbook.pdf").write_bytes(pdf([["A handbook of the company."], ["Parents take twelve weeks of leave."]]))
    (outside / "other.pdf").write_bytes(pdf([["Trains are booked in second class."]]))
    (docs / "linked.pdf").symlink_to(outside / "other.pdf")
    running = start(sources=(docs,))
    index = running.app.state.services.library.index(Place("local"))
    index.add(read_documents(docs, follow_symlinks=True))
    # Ids as anyone can write them into a data set.
    hostile = [str(outside / "other.pdf"), "../outside/other.pdf", "sub/../../outside/other.pdf", f"{'x' * 300}.pdf"]
    index.add([Document(each, "Trains are booked in second class.") for each in hostile])
    with running.client() as client:
        (_, passages, *_) = ask(client, LEAVE_QUESTION)
        passage = passages[1]["passages"][0]
        assert (passage["document"], passage["page"]) == ("handbook.pdf", 2)
        query = {"id": "handbook.pdf", "start": passage["start"], "end": passage["end"]}
        assert client.get("/api/collections/documents/view", params=query).json()["pdf"] is True
        image = client.get("/api/collections/documents/page", params={**query, "page": 2})
        shown = np.asarray(Image.open(BytesIO(image.content)).convert("RGB")).astype(int)
        assert (shown[:, :, 0] - shown[:, :, 2] > 60).any(), "the passage is marked"
        for each in (*hostile, "linked.pdf"):
            assert client.get("/api/collections/documents/view", params={"id": each}).json()["pdf"] is False, each
            refused = client.get("/api/collections/documents/page", params={"id": each, "page": 1})
            assert refused.status_code == 404, each


def test_the_share_of_a_document_that_is_indexed_is_told(start: Start) -> None:
    text = "\n\n".join(f"## Rule {n}\n\nThe rule of house {n} is one for all who live there. " * 6 for n in range(60))
    with start().client() as client:
        path = "/api/collections/documents/documents"
        client.post(path, params={"name": "rules.md"}, content=text)
        told = [change for _, change in events(client.get(f"{path}/events"))]
    shares = [change["done"] for change in told if "done" in change]
    assert shares == sorted(shares)
    assert any(0 < share < 1 for share in shares)
    assert "done" not in told[-1]
    assert told[-1]["state"] == "ready"


def test_pruning_on_the_command_line_leaves_what_was_uploaded(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gone.md").write_text(TRAVEL)
    assert run(["index", "."]) == 0
    running = start(path=".situate", folder=".situate-chat")
    with running.client() as client:
        add(client, "leave.md", LEAVE)
    running.stop()
    (tmp_path / "gone.md").unlink()
    capsys.readouterr()
    assert run(["index", ".", "--prune", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pruned"] == ["gone.md"]
    assert run(["search", "How long is parental leave?"]) == 0
