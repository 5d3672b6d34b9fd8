"""The command line: what it prints, its exit codes, and what it says about bad input."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen.canvas import Canvas

from situate import Index
from situate.app import indexing
from situate.app.cli import EXIT_CODES, run
from situate.app.commands import app
from tests.app.conftest import LEAVE, ROOT
from tests.embedders.remote.test_remote import Server

PAGE = ROOT / "docs" / "command-line.md"
COMMANDS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_search_prints_passages_with_their_places(ran: Any, ran_json: Any) -> None:
    code, out, _ = ran("search", "How long is parental leave?", "-k", "1")
    assert code == 0
    assert out.startswith("1 Leave > Parental leave (docs/leave.md)")
    assert "twelve weeks" in out
    assert "\x1b" not in out
    found = ran_json("search", "How long is parental leave?", "-k", "1")
    (hit,) = found["hits"]
    assert (hit["document_id"], hit["headings"]) == ("docs/leave.md", ["Parental leave"])
    assert LEAVE[hit["start"] : hit["end"]] == hit["text"]
    assert any("twelve weeks" in hit["text"][start:end] for start, end in hit["marks"])
    assert ran("search", "leave", "--filter", "path=docs/none.md")[0] == 1
    assert ran_json("search", "leave", "-f", "path=docs/travel.md")["hits"][0]["document_id"] == "docs/travel.md"


def test_indexing_again_changes_nothing_and_gone_files_stay_until_they_are_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def index(*arguments: str) -> dict[str, Any]:
        assert run(["index", *arguments, "--json"]) == 0
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "read.md").write_text("# One\n\nThe oak has acorns.")
    (tmp_path / "b" / "read.md").write_text("# Two\n\nThe pine has cones.")
    (tmp_path / "b" / "broken.pdf").write_bytes(b"PK\x03\x04 no pdf at all")
    (tmp_path / "b" / "empty.md").write_bytes(b"")
    first = index("a", "b")
    # files of one name in two folders are two documents, and what cannot be read is named
    assert (first["added"], first["documents_stored"], first["skipped"]) == (2, 2, ["b/empty.md"])
    assert any("broken.pdf" in note for note in first["notes"])
    monkeypatch.chdir(tmp_path / "b")
    again = index(".", "--store", "../.situate")
    assert (again["added"], again["unchanged"]) == (0, 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "read.md").unlink()
    assert index("a")["documents_stored"] == 2
    assert index("b", "--prune")["documents_stored"] == 2
    pruned = index("a", "--prune")
    assert (pruned["pruned"], pruned["documents_stored"]) == (["a/read.md"], 1)


def test_pruning_keeps_the_lines_of_a_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.jsonl").write_text('{"id": "pine", "text": "It has cones."}\n{"text": "The birch is white."}\n')
    assert run(["index", ".", "--prune", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pruned"], report["documents_stored"]) == ([], 2)


def test_files_that_cannot_be_read_are_named_and_the_others_are_indexed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.md").write_text("# Good\n\nThe oak has acorns.")
    (docs / "page.html").write_text(
        "<h1>Pine</h1><script>alert(1)</script><p>Cones &lt;b&gt;</p><img onerror=alert(2)>"
    )
    (docs / "lines.jsonl").write_text('{"id": "../../out", "text": "The birch is white."}\nnot json\n')
    (docs / "picture.md").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\n garbage")
    (docs / "link.md").symlink_to("/etc/hostname")
    with (docs / "huge.txt").open("wb") as huge:
        huge.truncate(500 * 2**20)
    locked = Canvas(str(docs / "locked.pdf"), encrypt=StandardEncryption("secret"))
    locked.drawString(72, 700, "Locked away.")
    locked.save()
    with zipfile.ZipFile(docs / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("[Content_Types].xml", "<Types/>")
        bomb.writestr("word/document.xml", b"a" * 60 * 2**20)
    with zipfile.ZipFile(docs / "escape.epub", "w") as escape:
        escape.writestr("../../escape.txt", "out")
    before = sorted(path for path in tmp_path.parent.rglob("*") if ".situate" not in path.parts)
    assert run(["index", "docs", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["added"] == 3
    named = " ".join(report["notes"])
    unread = "picture.md broken.pdf link.md huge.txt locked.pdf bomb.docx escape.epub lines.jsonl:2"
    assert [name for name in unread.split() if f"not read: {name}" not in named] == []
    assert sorted(path for path in tmp_path.parent.rglob("*") if ".situate" not in path.parts) == before
    assert run(["search", "pine cones", "--json"]) == 0
    assert "alert" not in capsys.readouterr().out


def test_an_interrupt_leaves_whole_documents_and_the_next_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for number in range(80):
        (tmp_path / "docs" / f"{number:03}.md").write_text(f"# Tree {number}\n\n" + "The oak has acorns. " * 20)
    original, calls = Index.add, []

    def add(self: Index, documents: Any) -> Any:
        calls.append(len(documents))
        if len(calls) == 2:
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
        return original(self, documents)

    monkeypatch.setattr(Index, "add", add)
    assert run(["index", "docs", "--json"]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    stopped = json.loads(capsys.readouterr().out)
    assert stopped["interrupted"]
    assert stopped["added"] == calls[0] < 80
    assert run(["index", "docs", "--json"]) == 0
    rest = json.loads(capsys.readouterr().out)
    assert (rest["added"] + rest["replaced"] + rest["unchanged"], rest["documents_stored"]) == (80, 80)
    assert rest["unchanged"] >= calls[0]


def test_progress_tells_the_share_of_a_long_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[float, str]] = []

    @contextmanager
    def progress(*_: Any, **__: Any) -> Iterator[Any]:
        yield lambda done, note: told.append((done, note))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(indexing, "progress", progress)
    (tmp_path / "docs").mkdir()
    for name, sections in (("a.md", 1), ("b.md", 1), ("[red]long.md", 60)):
        text = (f"## Tree {n}\n\n" + f"The oak of house {n} has acorns. " * 14 for n in range(sections))
        (tmp_path / "docs" / name).write_text("\n\n".join(text))
    assert run(["index", "docs"]) == 0
    notes = [note.partition(",")[0] for _, note in told]
    shares = [int(note.removeprefix("[red]long.md ").removesuffix("%")) for note in notes if "long" in note]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] == 100
    assert "2 documents" in notes
    size = sum(file.stat().st_size for file in (tmp_path / "docs").iterdir())
    assert sum(done for done, _ in told) == pytest.approx(size)


def test_a_store_of_another_process_is_named(filled: Path, ran: Any) -> None:
    held = "import sys; from situate import connect; c = connect(sys.argv[1]); print(flush=True); input()"
    command = [sys.executable, "-c", held, str(filled / ".situate")]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()  # type: ignore[union-attr]
        for arguments in (("search", "leave"), ("index", "docs"), ("mcp",), ("serve", "--port", "0")):
            code, _, err = ran(*arguments)
            assert code == 4
            assert "another process" in err or "locked" in err
        code, out, _ = ran("doctor", "--json")
        assert code == 0
        assert {"store": "yellow"}.items() <= {check["name"]: check["colour"] for check in json.loads(out)}.items()
        other.communicate(b"\n")
    assert ran("search", "leave")[0] == 0


def test_a_disk_without_room_is_said_and_nothing_is_lost(
    ran: Any, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "more.md").write_text("# More\n\nThe oak has acorns.")
    usage = shutil.disk_usage(filled)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
        code, _, err = ran("index", str(tmp_path / "more.md"))
        assert code == 4
        assert "is full" in err
        code, out, _ = ran("doctor", "--json")
        assert [check["colour"] for check in json.loads(out) if check["name"] == "disk"] == ["yellow"]
    assert ran("search", "leave")[0] == 0


@pytest.mark.full  # two processes that load the model
def test_serve_answers_until_it_is_told_to_stop(filled: Path, tmp_path: Path) -> None:
    (tmp_path / "situate.yaml").write_text(f"store: {filled / '.situate'}\nchat: {{title: Handbook}}\n")
    command = [sys.executable, "-m", "situate.app", "serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        url = next(line for line in serving.stderr if "listening on" in line).split()[-1]
        about = httpx.get(f"{url}api/about").json()
        second = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        serving.send_signal(signal.SIGTERM)
        serving.stderr.read()
    assert about["title"] == "Handbook"
    assert second.returncode == 4
    assert "another process" in second.stderr
    assert serving.returncode == -signal.SIGTERM  # as uvicorn ends, after the answers under way


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search", "leave", "--store", "nowhere"), 2, "there is no store"),
        (("index", "nothing.md"), 2, "does not exist"),
        (("search", "leave", "--config", "wrong.yaml"), 2, r"wrong\.yaml, line 2 \(stoer\): .*did you mean store"),
        (("search", "leave", "--filter", "year"), 2, "no KEY=VALUE"),
        (("search", "leave", "-k", "0"), 2, "greater than or equal to 1"),
        (("serch",), 2, "Did you mean 'search'"),
        (("compare", "docs"), 2, "has no questions: give --questions"),
        (("compare", "docs", "-p", "best"), 2, "there is no preset 'best'"),
        (("search", "leave", "--model", "nobody/nothing"), 3, "nobody/nothing"),
        (("search", "leave", "--config", "quality.yaml"), 4, "built with"),
        (("search", "leave", "--store", "http://127.0.0.1:1"), 4, r"127\.0\.0\.1:1"),
        (("chat", "--llm-url", "nowhere", "--llm-model", "m"), 2, "no http or https address"),
        (("mcp", "--transport", "http", "--host", "0.0.0.0"), 2, "no keys"),
    ],
)
def test_bad_input_has_a_message_and_a_code(
    filled: Path, ran: Any, arguments: tuple[str, ...], code: int, message: str
) -> None:
    (filled / "wrong.yaml").write_text("model: x\nstoer: y\n")
    (filled / "quality.yaml").write_text("preset: quality\n")
    got, out, err = ran(*arguments)
    assert (got, out) == (code, "")
    assert re.search(message, err)
    assert "Traceback" not in err
    assert ran("search", "leave", "-k", "1")[0] == 0, "nothing is lost"


@pytest.mark.parametrize("command", [("serve",), ("mcp", "--transport", "http")])
def test_an_address_that_is_taken_is_named_before_anything_is_opened(ran: Any, command: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        code, out, err = ran(*command, "--port", port)
    assert (code, out) == (2, "")
    assert f"'127.0.0.1', port {port} cannot be listened on: Address already in use" in err


def test_documents_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.md").write_text(
        "# [red]Evil[/] \x1b]0;title\x07\n\n\x1b[2J[bold]oak[/bold] \u202eacorns <script>"
    )
    (tmp_path / "\x1b]0;name\x07.xyz").write_text("words")
    assert run(["index", "."]) == 0
    assert run(["search", "oak acorns"]) == 0
    out, err = capsys.readouterr()
    assert "name" in err
    assert "\x1b" not in err
    assert run(["index", "\x1b]0;name\x07.xyz"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "[bold]oak[/bold]" in out
    assert "[red]Evil[/]" in out


def test_chat_without_a_model_quotes_the_best_passages(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("How long is parental leave?\n\nWho won the cup in 1966?\n"))
    code, out, _ = ran("chat")
    assert code == 0
    assert "twelve weeks of leave, paid in full. [1]" in out
    assert "[1] Leave > Parental leave (docs/leave.md)" in out
    assert out.rstrip().endswith("Nothing relevant was found in the documents.")


def test_chat_with_a_model_streams_and_cites(ran: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sk-secret-1234567890")
    answers = ["<think>hm</think>Twelve weeks [1].", "long parental leave pay", "Paid in full [1]."]
    server.answer = lambda path, body: (200, {"choices": [{"message": {"content": answers.pop(0)}}]})
    monkeypatch.setattr(sys, "stdin", io.StringIO("How long is parental leave?\nIs it paid?\n"))
    model = ("--llm-url", f"{server.url}/v1", "--llm-model", "small", "--llm-key-env", "SOME_KEY")
    code, out, err = ran("chat", *model)
    assert (code, err) == (0, "")
    assert "hm" not in out
    assert "Twelve weeks [1]." in out
    assert "Paid in full [1]." in out
    asked, rewritten, followed = (body["messages"][-1]["content"] for _, _, body in server.requests)
    assert "<passage-1>" in asked
    assert "<question>\nIs it paid?\n</question>" in followed
    assert "Is it paid?" in rewritten
    assert "assistant: Twelve weeks [1]." in followed
    assert all(headers["Authorization"] == "Bearer sk-secret-1234567890" for _, headers, _ in server.requests)


def test_chat_goes_on_without_a_model_that_fails(ran: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answer = lambda path, body: (400, {"error": "no such model"})
    monkeypatch.setattr(sys, "stdin", io.StringIO("How long is parental leave?\n"))
    code, out, _ = ran("chat", "--llm-url", f"{server.url}/v1", "--llm-model", "small", "--json")
    answer = json.loads(out)
    assert code == 5
    assert (answer["kind"], answer["cited"][0]) == ("extract", 1)
    assert "twelve weeks" in answer["answer"]
    assert "no such model" in answer["error"]


def test_doctor(ran_json: Any, ran: Any, server: Server) -> None:
    checks = {check["name"]: check for check in ran_json("doctor")}
    assert {"situate", "extras", "device", "model cache", "model", "store", "language model"} <= checks.keys()
    there, _, absent = checks["extras"]["detail"].partition("; not installed: ")
    assert {"app", "documents", "langchain", "offline"} <= set(there.split(", ")), absent
    assert all(check["colour"] != "red" for check in checks.values())
    assert "2 documents, 2 passages, whole" in checks["store"]["detail"]
    assert ran("doctor", "--model", "nobody/nothing")[0] == 1
    code, out, _ = ran("doctor", "--config", str(ROOT / "nothing.yaml"))
    assert (code, out) == (2, "")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    asked = [
        {"question": "How long is parental leave?", "document": "leave.md", "answer": "twelve weeks of leave"},
        {"question": "Who books flights?", "document": "travel.md", "answer": "the travel desk"},
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, asked)))
    return file


def test_compare_measures_the_presets_on_ones_own_questions(ran: Any, questions: Path, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    options = ("--questions", str(questions), "-p", "plain", "-p", "fast")
    code, out, _ = ran("compare", "docs", *options, "--plot", str(plot), "--json")
    assert code == 0
    measured = json.loads(out)
    assert list(measured["configurations"]) == ["plain", "fast"]
    assert measured["configurations"]["fast"]["char_recall@5"]["mean"] == 1
    assert plot.read_bytes().startswith(b"\x89PNG")
    code, out, _ = ran("compare", "docs", *options, "--perturb", "typos")
    assert code == 0
    assert "as asked | typos | mean | spread | worst" in out
    assert re.search(r"^char_recall@5, points over plain  \S+ +\S+\nfast +[ ─│]*●", out, re.MULTILINE)
    code, _, err = ran("compare", "docs", *options, "--perturb", "paraphrase")
    assert code == 2
    assert "language model" in err
    questions.write_text(questions.read_text().replace("twelve weeks", "thirteen weeks"))
    code, _, err = ran("compare", "docs", *options)
    assert code == 2
    assert "line 1: the answer does not stand in 'leave.md'" in err


def test_compare_takes_configurations_models_and_rerankers(ran: Any, questions: Path, tmp_path: Path) -> None:
    own, plot = tmp_path / "own.yaml", tmp_path / "plot.svg"
    own.write_text("chunker: {kind: fixed, size: 8}\nsteps: {rerankers: [mmr]}\nstore: nowhere\n")
    options = ("compare", "docs", "--questions", str(questions), "--measure", "RR@1")
    variants = ("-p", "fast", "--with", str(own), "-r", "none", "-r", "late_interaction", "--plot", str(plot))
    code, out, err = ran(*options, *variants)
    assert (code, err) == (0, "")
    names = ["fast", "fast + late_interaction", "own", "own + late_interaction"]
    costs = [line.split(" | ") for line in out.partition("| | indexed, s | a search, ms |")[2].splitlines()[2:6]]
    assert [(row[0], row[1] == "as above") for row in costs] == [(f"| {name}", "late" in name) for name in names], (
        "what is stored alike is stored once"
    )
    assert "<svg" in plot.read_text(encoding="utf-8")
    assert not (tmp_path / "nowhere").exists(), "a configuration's own store is left alone"
    # As it is configured, with its own reranker and a chunk size of its own; nothing stands beside it.
    plot.unlink()
    code, out, err = ran(*options, "--with", str(own), "--plot", str(plot))
    assert code == 0
    assert "--plot drew nothing: own has no other configuration beside it" in err
    assert not plot.exists()
    assert "●" not in out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--reranker", "best"), "there is no reranker 'best': none, cross_encoder"),
        (("--with", "nothing.yaml"), r"nothing\.yaml"),
        (("--with", "{folder}/a.yaml", "--with", "{folder}/b/a.yaml"), "two configurations are named 'a'"),
        (("--reranker", "pointwise"), "needs a language model"),
        (("--measure", "nDCG@ten"), "nDCG@ten"),
        (("--measure", "char_recall@5", "--measure", "best@5"), "best@5"),
        (("--plot", "differences.xyz"), r"its ending is none of \.png, \.svg, \.pdf"),
        (("--plot", "nowhere/differences.svg"), "there is no folder 'nowhere'"),
    ],
)
def test_compare_refuses_what_it_cannot_measure_before_it_measures(
    ran: Any, questions: Path, tmp_path: Path, option: tuple[str, ...], message: str
) -> None:
    (tmp_path / "b").mkdir()
    for file in (tmp_path / "a.yaml", tmp_path / "b" / "a.yaml"):
        file.write_text("preset: plain\n")
    given = [each.format(folder=tmp_path) for each in option]
    code, out, err = ran("compare", "docs", "--questions", str(questions), *given)
    assert (code, out) == (2, "")
    assert re.search(message, err)


def test_describe_and_schema(ran: Any) -> None:
    code, out, _ = ran("describe", "sentence-transformers/all-MiniLM-L6-v2")
    assert code == 0
    assert "384 numbers" in out
    code, out, _ = ran("schema")
    assert code == 0
    assert json.loads(out)["properties"]["store"]


def test_the_page_names_every_command_option_and_exit_code(ran: Any) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for command in COMMANDS:
        code, out, _ = ran(command.rstrip("_"), "--help")
        assert code == 0
        assert f"situate {command.rstrip('_')}" in page
        missing = [name for name in re.findall(r"(?<=\s)--[a-z-]+", out) if f"`{name}" not in page and name != "--help"]
        assert not missing, (command, missing)
    for number, meaning in EXIT_CODES.items():
        assert f"| {number} | {meaning} |" in page


def test_a_missing_extra_is_named_and_completion_is_there(situate_command: Any, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['typer'] = None; from situate.app.cli import main; main(['doctor'])"
    without = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert without.returncode == 2
    assert "pip install 'situate[app]'" in without.stderr
    # typer takes the shell by name only where it does not look for one among the processes above.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = situate_command("--show-completion", "bash", cwd=tmp_path, env=named)
    assert "_SITUATE_COMPLETE" in shown.stdout or "complete" in shown.stdout
    version = situate_command("--version", cwd=tmp_path)
    assert version.stdout.startswith("situate 0.")


def test_fit_prints_a_report_and_changes_nothing(ran: Any, tmp_path: Path) -> None:
    text = "\n\n".join(
        f"## Rule {n} of {what}\n\nThe {what} of house {n} is a rule for all. It names the {what} desk on "
        f"floor {n}, where forms are signed. Ask there before {n + 8} in the morning, and bring the receipt."
        for n, what in enumerate(
            ["travel", "leave", "parking", "lunch", "laptop", "badge", "visitor", "heating"] * 2, 1
        )
    )
    (tmp_path / "rules.md").write_text(text)
    store = ("--store", str(tmp_path / "store"))
    assert ran("index", str(tmp_path / "rules.md"), *store)[0] == 0
    options = ("--same-cost", "--rebuild", "60", "--teacher", "late_interaction")
    plot = tmp_path / "plot.svg"
    code, out, err = ran("fit", *options, "--output", str(tmp_path / "fitted"), "--plot", str(plot), *store)
    assert code == 0
    assert plot.exists() != ("--plot drew nothing" in err), "a picture, or why there is none"
    assert (tmp_path / "fitted" / "report.md").read_text() == out
    assert "settings tried" in out
    assert "Configuration: as before" in out
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who signs?", "document": "rules.md", "answer": "nowhere"}')
    code, _, err = ran("fit", "--questions", str(questions), *store)
    assert code == 2
    assert "the answer does not stand in 'rules.md'" in err
    assert ran("fit", "--plot", "plot.xyz", *store)[0] == 2
    code, _, err = ran("fit", "--lora", str(tmp_path / "lora"), "--plot", str(plot), "--json", *store)
    assert (code, "uses no --plot, --json" in err) == (2, True)
    code, _, err = ran("fit", "--teacher", "parrot", *store)
    assert (code, "there is no reranker 'parrot' to teach" in err) == (2, True)
    import torch

    if not torch.cuda.is_available():
        code, _, err = ran("fit", "--lora", str(tmp_path / "lora"), *store)
        assert (code, "no GPU is here" in err) == (2, True)
