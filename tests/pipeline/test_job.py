"""What a run that fails leaves behind."""

import json
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from pipeline import job as job_module
from pipeline.options import parse_options
from tests.audio_files import noise, write_soundfile
from transforms.errors import StorageError


@pytest.fixture
def prepared(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    return job_module.prepare(
        parse_options([f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
                       f"--model={tiny_checkpoint}", "--workers=1", "--progress=none"])
    )  # fmt: skip


def test_a_failed_run_is_told_and_keeps_its_journal(prepared, monkeypatch, tmp_path):
    """What is in the journal is for the next run."""
    kept = Path(prepared.journal) / "books.json"

    def fail(job):
        kept.write_text("{}")
        raise RuntimeError("a worker died")

    monkeypatch.setattr(job_module, "run_graph", fail)
    with pytest.raises(RuntimeError, match="a worker died"):
        job_module.execute(prepared)
    record = json.loads((tmp_path / f"out/runs/{prepared.provenance.run_id}.json").read_text())
    assert record["status"] == "failed"
    assert kept.exists()


def test_a_record_that_cannot_be_written_hides_no_error(prepared, monkeypatch, capsys):
    def fail(job):
        monkeypatch.setattr(job_module.run_record, "write_json", refuse)
        raise StorageError("predictions cannot be written")

    def refuse(path, content):
        raise StorageError("the record cannot be written")

    monkeypatch.setattr(job_module, "run_graph", fail)
    with pytest.raises(StorageError, match="predictions"):
        job_module.execute(prepared)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "the run's record stays as it is: the record cannot be written"


def test_a_template_leaves_its_rows_to_the_next_run(
    tmp_path, tiny_checkpoint, capsys, monkeypatch
):
    """Dataflow's template is stood in for by DirectRunner, which labels and knows no templates."""
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    call = [f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
            f"--model={tiny_checkpoint}", "--workers=1", "--progress=none"]  # fmt: skip
    template = job_module.prepare(parse_options(call))
    with monkeypatch.context() as patched:
        patched.setattr(job_module, "only_template", lambda config: True)
        assert job_module.run(template) == 0
    assert "without --template_location closes its books" in capsys.readouterr().out
    closing = job_module.prepare(parse_options(call))
    assert job_module.run(closing) == 0
    first, second = (
        json.loads((tmp_path / f"out/runs/{job.provenance.run_id}.json").read_text())
        for job in (template, closing)
    )
    assert (first["status"], first["counts"]["labelled"]) == ("recovered", 1)
    assert second["resumed_runs"] == [first["run_id"]]
    assert (second["status"], second["counts"]["skipped"]) == ("done", 1)
    rows = ds.dataset(tmp_path / "out" / "predictions").to_table()
    assert rows["run_id"].to_pylist() == [first["run_id"]]


def test_one_number_type_for_all_workers(prepared):
    """Resolved before the run, and part of the fingerprint where it is not float32."""
    assert prepared.precision in ("float32", "bfloat16")
    assert prepared.device in ("cpu", "cuda")
    suffix = "" if prepared.precision == "float32" else "-bfloat16"
    assert prepared.provenance.model_fingerprint == prepared.checkpoint.fingerprint + suffix


def test_limits_of_decoding_are_those_asked_for(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    config = parse_options(
        [f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
         f"--model={tiny_checkpoint}", "--decode_timeout_seconds=2.5", "--decode_memory_mib=100"]
    )  # fmt: skip
    limits = job_module.prepare(config).limits
    assert (limits.timeout_seconds, limits.memory_bytes) == (2.5, 104_857_600)


def test_on_a_cluster_auto_is_what_every_machine_has(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    config = parse_options(
        [f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
         f"--model={tiny_checkpoint}", "--runner=PortableRunner"]
    )  # fmt: skip
    assert job_module.prepare(config).precision == "float32"
