"""Wrong calls of pipeline.stream: one line, status 2, and no work."""

from __future__ import annotations

import pytest

from pipeline import stream
from pipeline.program import EXIT_WRONG_CALL


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transforms.streaming.kafka_client._ANSWER_SECONDS", 0.3)
    return tmp_path


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("--source=nosuch --once", "nosuch is no folder"),
        ("--source=- --once", "--once is for one folder, which"),
        ("--source=http://h/x --once", "--once is for one folder, which"),
        ("--source=in --source=in", "--source=in can be given only once"),
        ("--source=in --once --to=- --to=-", "--to=- can be given only once"),
        ("--source=http://h/x --source=http://h/x/", "no stream_id of its own"),
        ("--source=in --once --to=file", "no folder can be made at"),
        ("--source=in --once --clean_to=file/deep", "no folder can be made at"),
        ("--source=in --once --to=http://h/x", "give -, a folder, or kafka://"),
        ("--source=in --once --to=kafka://h", "write kafka://HOST:PORT/TOPIC"),
        ("--source=in --once --for_seconds=1", "--for_seconds is for live sources"),
        ("--source=in --runner=FlinkRunner", "cannot follow in, which is on this machine"),
        ("--source=in --once --model=genre-vit", "cannot follow a stream"),
        ("--source=in --source=kafka://h:1/t", "a topic is read alone"),
    ],
)
def test_a_line_says_what_is_wrong(call, message, folder, capsys):
    assert stream.main(call.split()) == EXIT_WRONG_CALL
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert not out
    assert sorted(path.name for path in folder.iterdir()) == ["file", "in"]


@pytest.mark.parametrize(
    "call",
    ["--source=kafka://127.0.0.1:1/t", "--source=in --once --to=kafka://127.0.0.1:1/t",
     "--source=in --once --clean_to=kafka://127.0.0.1:1/t"],
)  # fmt: skip
def test_a_broker_that_does_not_answer(call, folder, capsys):
    pytest.importorskip("confluent_kafka")
    assert stream.main(call.split()) == EXIT_WRONG_CALL
    assert "kafka://127.0.0.1:1/t: no broker answers" in capsys.readouterr().err
