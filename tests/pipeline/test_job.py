"""What a run that fails leaves behind."""

import json

import pytest

from pipeline import job as job_module
from pipeline.options import parse_options
from tests.audio_files import noise, write_soundfile


@pytest.fixture
def prepared(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    return job_module.prepare(
        parse_options([f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
                       f"--model={tiny_checkpoint}", "--workers=1", "--progress=none"])
    )  # fmt: skip


def test_a_failed_run_leaves_no_half_written_rows(prepared, monkeypatch, tmp_path):
    """Beam's temporary files end in .parquet: a reader of the folder would take them for rows."""
    output, run_id = tmp_path / "out", prepared.provenance.run_id
    own = output / "predictions" / f"beam-temp-{run_id}-0123" / "x.parquet"
    other = output / "predictions" / "beam-temp-another-run-0123" / "x.parquet"

    def fail(job):
        for path in (own, other):
            path.parent.mkdir(parents=True)
            path.write_bytes(b"half of a file")
        raise RuntimeError("a worker died")

    monkeypatch.setattr(job_module, "_run_graph", fail)
    with pytest.raises(RuntimeError, match="a worker died"):
        job_module.execute(prepared)
    assert not own.parent.exists()
    assert other.exists()
    record = json.loads((output / "runs" / f"{run_id}.json").read_text())
    assert record["status"] == "failed"


def test_one_number_type_for_all_workers(prepared):
    """Resolved before the run, and part of the fingerprint where it is not float32."""
    assert prepared.precision in ("float32", "bfloat16")
    assert prepared.device in ("cpu", "cuda")
    suffix = "" if prepared.precision == "float32" else "-bfloat16"
    assert prepared.provenance.model_fingerprint == prepared.checkpoint.fingerprint + suffix


def test_on_a_cluster_auto_is_what_every_machine_has(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    config = parse_options(
        [f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
         f"--model={tiny_checkpoint}", "--runner=FlinkRunner"]
    )  # fmt: skip
    assert job_module.prepare(config).precision == "float32"
