"""Loading a model shows no bar and no note of the libraries that load it, and does not change their settings."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading

import pytest
import transformers

from situate.embedders.models.quiet import quietly

PROGRAM = """
import logging
logging.basicConfig(level=logging.INFO)
# Where it is installed, peft imports it, and it warns of a kernel that it could use.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
from situate.embedders import Embedder, LibraryEncoder, SpanText
Embedder({path!r}).embed_queries(["x"])
Embedder({path!r}, dtype="float32").embed_documents(["x"])
LibraryEncoder({path!r}).encode([SpanText("x")])
print("loaded")
"""


def test_loading_is_quiet_although_the_user_logs_notes(minilm_path: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(path=minilm_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == "loaded\n"
    assert done.stderr == ""


@pytest.mark.skipif(not hasattr(transformers.utils.logging, "set_tqdm_hook"), reason="transformers has it since 5.0")
def test_what_other_threads_load_is_shown_and_everything_is_put_back(
    minilm_path: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("sentence_transformers.base.model")
    before = (transformers.utils.logging._tqdm_hook, list(logger.filters), logger.level)
    caplog.set_level(logging.INFO)

    def load(name: str) -> None:
        transformers.AutoModel.from_pretrained(minilm_path)
        logger.info("a note of %s", name)

    with quietly():
        load("mine")
        logger.warning("a warning")
        assert "Loading" not in capsys.readouterr().err
        thread = threading.Thread(target=load, args=("another thread",))
        thread.start()
        thread.join()
    assert "Loading weights" in capsys.readouterr().err
    assert [record.getMessage() for record in caplog.records if record.name == logger.name] == [
        "a warning",
        "a note of another thread",
    ]
    load("mine")
    assert "Loading weights" in capsys.readouterr().err
    assert (transformers.utils.logging._tqdm_hook, list(logger.filters), logger.level) == before
