"""The compose files: the services are those that the docs and our client expect. No container is started here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from situate.app.web import web_settings
from situate.configuration import load
from situate.retrievers.storage.connect import server_urls

ROOT = Path(__file__).parents[1]
FILES = ["compose.yaml", "compose.cluster.yaml"]


def read(file: str) -> tuple[str, dict[str, Any]]:
    text = (ROOT / file).read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


@pytest.mark.parametrize("file", FILES)
def test_every_service_can_start(file: str) -> None:
    text, compose = read(file)
    published: list[str] = []
    for name, service in compose["services"].items():
        image = re.fullmatch(r"\$\{QDRANT_IMAGE:-qdrant/qdrant:v(\d+)\.(\d+)\.\d+\}", service["image"])
        assert image is not None
        # A client and a server fit that differ by one minor version at most.
        ours = version("qdrant-client").split(".")
        assert image[1] == ours[0]
        assert abs(int(image[2]) - int(ours[1])) <= 1
        ports = [port.split(":") for port in service["ports"]]
        assert [port[2] for port in ports] == ["6333", "6334"]  # REST, gRPC
        # The key is optional, so by default only this machine may reach the ports.
        assert {port[0] for port in ports} == {"127.0.0.1"}
        published += [port[1] for port in ports]
        mounts = dict(reversed(volume.split(":")) for volume in service["volumes"])
        assert "/qdrant/storage" in mounts, name
        assert set(mounts.values()) <= set(compose["volumes"])
        settings = dict(([*setting.split("="), None])[:2] for setting in service["environment"])
        assert settings["QDRANT__SERVICE__API_KEY"] is None, "the key comes from the shell, never from the file"
        assert settings["QDRANT__TELEMETRY_DISABLED"] == "true"
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in compose["services"][needed]
    assert len(set(published)) == len(published)
    # The address in the file's head is the published one.
    urls = re.findall(r"http://localhost:\d+", text)
    assert server_urls(urls) == [f"http://localhost:{port}" for port in published[::2]]


def test_the_nodes_form_one_cluster() -> None:
    _, compose = read("compose.cluster.yaml")
    services = compose["services"]
    assert len(services) == 3
    volumes = [service["volumes"][0].split(":")[0] for service in services.values()]
    assert len(set(volumes)) == 3
    first = next(iter(services))
    for name, service in services.items():
        assert "QDRANT__CLUSTER__ENABLED=true" in service["environment"]
        expected = ["./qdrant", "--uri", f"http://{name}:6335"]
        assert service["command"] == (expected if name == first else [*expected, "--bootstrap", f"http://{first}:6335"])
        assert list(service.get("depends_on", {})) == ([] if name == first else [first])


@pytest.mark.skipif(shutil.which("bash") is None, reason="the check is a line of bash")
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (None, False)])
def test_the_health_check_asks_the_server(file: str, status: int | None, healthy: bool) -> None:
    asked: list[str] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status or 500)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        port = server.server_address[1]
        thread = threading.Thread(target=server.handle_request if status else server.server_close)
        thread.start()
        if status is None:
            thread.join()
        _, compose = read(file)
        kind, *command = next(iter(compose["services"].values()))["healthcheck"]["test"]
        assert kind == "CMD"
        # Compose makes one dollar sign of two.
        command = [word.replace("6333", str(port)).replace("$$", "$") for word in command]
        done = subprocess.run(command, capture_output=True)
        thread.join()
    assert (done.returncode == 0) is healthy, done.stderr
    if status:
        assert asked in (["/readyz"], ["/healthz"])


def test_the_chat_application_and_its_server_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "examples" / "chatbot"
    services = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))["services"]
    _, plain = read("compose.yaml")
    for same in ("image", "healthcheck"):
        assert services["qdrant"][same] == plain["services"]["qdrant"][same]
    assert "ports" not in services["qdrant"], "the chat application alone reaches the server"
    assert services["chat"]["ports"] == ["127.0.0.1:8000:8000"]
    # The configuration names the variables that the compose file demands, and the server by its service's name.
    demanded = {line.partition("=")[0] for line in services["chat"]["environment"]}
    for name in demanded:
        monkeypatch.setenv(name, "a-key-of-many-letters")
    settings = load(folder / "situate.yaml")
    assert server_urls(settings.store.url) == ["http://qdrant:6333"]
    assert {settings.store.api_key, *(t.api_key for t in settings.chat.tenants.values())} == {
        f"${{{name}}}" for name in demanded
    }
    assert settings.chat.folder.startswith(services["chat"]["volumes"][0].partition(":")[2])
    assert web_settings(settings).tenants == ("team",)


def test_the_image_is_built_of_what_is_there_and_runs_as_a_user_of_its_own() -> None:
    folder = ROOT / "examples" / "chatbot"
    steps = [
        step.split(maxsplit=1)
        for step in re.sub(r"\\\n\s*", "", (folder / "Dockerfile").read_text(encoding="utf-8")).splitlines()
        if step and not step.startswith("#")
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [what.split()[:-1] for step, what in steps if step == "COPY" and "--from" not in what]
    sources = {source for line in copied for source in line}
    assert sources == allowed, "the builder is sent what is copied, and nothing else"
    assert all((ROOT / source).exists() for source in sources)
    # All that the package is made of: its rooms, and what pyproject.toml reads.
    assert {path.name for path in (ROOT / "situate").iterdir() if path.is_symlink()} <= sources
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {project["readme"], *project["license-files"]} <= sources
    said = [what for step, what in steps if step == "RUN"]
    extras = re.findall(r"\[([\w,-]+)\]", " ".join(said))
    assert set(extras[0].split(",")) <= set(project["optional-dependencies"])
    made = dict(steps)  # the last of each
    assert "useradd --create-home --uid 1000 chat" in said[-1]
    assert (made["USER"], made["WORKDIR"], made["VOLUME"]) == ("chat", "/home/chat", "/data")
    assert made["COPY"] == "examples/chatbot/situate.yaml ."
    assert json.loads(made["CMD"])[:2] == ["situate", "serve"]
    assert not {"ENV", "ARG"} & {step for step, _ in steps}, "no key is kept in the image"
