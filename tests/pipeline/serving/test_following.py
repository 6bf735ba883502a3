"""Live streams by the service: as the stream pipeline hears them, however they are cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.serving.answers import Problem, RefusedError
from pipeline.stream_arguments import parse_options
from pipeline.stream_settings import listen_settings
from tests.checkpoints import make_recogniser
from tests.pipeline.serving.in_process import Served, served
from tests.streams import as_blocks, front_end, sound
from transforms.records import row_dict
from transforms.streaming.blocks import MAX_PAYLOAD_BYTES
from transforms.streaming.listening import load_follower
from transforms.streaming.ordering import SessionEnd
from transforms.streaming.rows import LabelRow
from transforms.streaming.stream_state import StreamState

pytestmark = pytest.mark.slow

SECONDS, RATE = 14.0, 16_000
NUMBERS = ("start_s", "end_s", "confidence")
OF_A_CUT = frozenset({"sequence", "run_id", "labelled_at"})
"""Which block completed it, who said it, and when."""


@pytest.fixture(scope="module", params=["digits-gru", "gru"])
def model(request, tmp_path_factory) -> str:
    if request.param != "gru":
        return str(request.param)
    folder = tmp_path_factory.mktemp("models") / "gru"
    return str(make_recogniser(folder, front_end=front_end()))


@pytest.fixture(scope="module")
def service(fork_server, tiny_checkpoint, model) -> Iterator[Served]:
    with served(f"--model={tiny_checkpoint}", f"--live_model={model}", "--workers=1") as made:
        yield made


def expected(model: str, samples: Any, folder: Path) -> list[dict[str, Any]]:
    """What the stream pipeline's follower says of the sound in one piece, and at its end."""
    settings = listen_settings(parse_options([f"--model={model}", f"--source={folder}"]))
    blocks = as_blocks([samples], RATE, start_us=0, last=False)
    told = load_follower(settings).follow("radio", [*blocks, SessionEnd()], StreamState())
    return [row_dict(row) for row in told if isinstance(row, LabelRow)]


def hear(
    service: Served, samples: Any, state: bytes | None, rate: int = RATE
) -> tuple[Sequence[Any], bytes]:
    heard = service.do(service.service.follow("radio", samples, rate, state))
    return heard.rows, heard.state


def hear_all(service: Served, pieces: Sequence[Any], rate: int = RATE) -> list[Any]:
    state, rows = None, []
    for piece in pieces:
        told, state = hear(service, piece.reshape(len(piece), -1), state, rate)
        rows += told
    told, _ = hear(service, np.zeros((0, 1), np.float32), state, rate)
    return [*rows, *told]


def check_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - OF_A_CUT:
            if name in NUMBERS and other[name] is not None:
                assert one[name] == pytest.approx(other[name], abs=1e-6), name
            elif name == "scores" and other[name] is not None:
                np.testing.assert_allclose(one[name], other[name], atol=1e-6)
            else:
                assert one[name] == other[name], name


CUTS = {
    "whole": [],
    "seconds": list(range(RATE, 14 * RATE, RATE)),
    "uneven": [1, 2, 500, 501, 7_777, 40_000, 40_000, 123_456, 224_000 - 1],
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_heard_does_not_depend_on_the_cut(service, model, tmp_path, cut):
    samples = sound(SECONDS, RATE)
    rows = expected(model, samples, tmp_path)
    assert {"second", "segment", "end"} <= {row["kind"] for row in rows}
    pieces = [piece for piece in np.split(samples, CUTS[cut]) if len(piece)]
    check_same(hear_all(service, pieces), rows)


def test_a_piece_of_more_than_one_block(service):
    samples = sound(SECONDS, RATE)
    stereo = np.stack([samples, samples], axis=1)
    assert stereo.nbytes > MAX_PAYLOAD_BYTES
    whole, seconds = hear_all(service, [stereo]), np.split(stereo, range(RATE, len(stereo), RATE))
    check_same(hear_all(service, seconds), whole)


def test_the_end_tells_what_is_open(service):
    samples = sound(2.3, RATE).reshape(-1, 1)
    before, state = hear(service, samples, None)
    assert "end" not in {row["kind"] for row in before}
    after, ended = hear(service, np.zeros((0, 1), np.float32), state)
    assert [row["kind"] for row in after][-1] == "end"
    seconds = max(row["end_s"] for row in after)
    assert seconds == pytest.approx(2.3, abs=0.1)
    assert hear(service, np.zeros((0, 1), np.float32), ended)[0] == []


def test_the_end_of_what_never_began(service):
    assert hear(service, np.zeros((0, 1), np.float32), None)[0] == []


def test_streams_do_not_hear_each_other(service, model, tmp_path):
    one, other = sound(6.0, RATE, seed=1), sound(6.0, RATE, seed=2)
    states: list[bytes | None] = [None, None]
    rows: list[list[Any]] = [[], []]
    for at in range(0, len(one), RATE):
        for number, samples in enumerate((one, other)):
            told, states[number] = hear(
                service, samples[at : at + RATE].reshape(-1, 1), states[number]
            )
            rows[number] += told
    for number, samples in enumerate((one, other)):
        told, _ = hear(service, np.zeros((0, 1), np.float32), states[number])
        check_same([*rows[number], *told], expected(model, samples, tmp_path))


def test_damaged_sound_is_told_and_the_stream_goes_on(service):
    samples = sound(3.0, RATE).reshape(-1, 1)
    _, state = hear(service, samples, None)
    damaged = samples.copy()
    damaged[100] = np.nan
    told, state = hear(service, damaged, state)
    assert [row["reason"] for row in told if "reason" in row] == ["invalid_samples"]
    told, _ = hear(service, samples, state)
    assert "second" in {row.get("kind") for row in told}


def test_no_streams_where_none_were_asked_for(fork_server, tiny_checkpoint):
    with served(f"--model={tiny_checkpoint}", "--workers=1") as service:
        with pytest.raises(RefusedError) as caught:
            hear(service, np.zeros((10, 1), np.float32), None)
        assert caught.value.problem is Problem.INVALID_REQUEST
