"""Input and output on an S3 server."""

from __future__ import annotations

import pytest

from tests.pipeline.s3_server import (
    bucket_of_music,
    label,
    label_here,
    read_records,
    read_rows,
    running_server,
)

pytest.importorskip("boto3", reason="the extra [aws] is not installed")
pytest.importorskip("moto", reason="moto is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server():
    with running_server() as url:
        yield url


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return bucket_of_music(server, tmp_path_factory.mktemp("s3"))


def test_input_and_output_on_s3(server, client, tiny_checkpoint):
    """Two workers, which need the credentials too; the journal is gone at the end."""
    done = label(
        server, tiny_checkpoint, "--input=s3://music/cat/", "--output=s3://music/out",
        "--workers=2",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = read_rows(client, "out")
    folder = "s3://music/cat"
    uris = [f"{folder}/a.flac", f"{folder}/x/b.flac", f"{folder}/x/y/c é.flac"]
    assert [row["uri"] for row in rows["predictions"]] == uris
    assert all(row["modified_at"] is not None for row in rows["predictions"])
    (record,) = read_records(client, "out")  # and the lock is gone
    counts = record["counts"]
    assert (counts["listed"], counts["labelled"]) == (4, 3)
    assert counts["failed_by_reason"] == {"not_audio": 1}
    assert record["stages"]["RunInference"]["elements_in"] == 1  # all three are the same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input=s3://music/none/**/*.flac", "--output=s3://music/out2"], "matches nothing"),
        (["--input=s3://music/cat/", "--output=s3://nowhere/out"], "cannot be written"),
    ],
)
def test_wrong_calls_on_s3(server, client, tiny_checkpoint, options, message):
    done = label(server, tiny_checkpoint, *options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    line = done.stderr
    assert message in line


def test_the_same_again_on_s3_skips_all(server, client, tiny_checkpoint):
    options = ("--input=s3://music/cat/", "--output=s3://music/again")
    assert label_here(server, tiny_checkpoint, *options) == 0
    assert label_here(server, tiny_checkpoint, *options) == 0
    first, second = read_records(client, "again")
    assert (first["counts"]["labelled"], first["counts"]["skipped"]) == (3, 0)
    assert (second["counts"]["labelled"], second["counts"]["skipped"]) == (0, 3)
