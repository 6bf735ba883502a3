"""Every error as problem+json, with a closed reason and nothing of the input."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import Body, FastAPI, HTTPException
from fastapi.testclient import TestClient
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from pipeline.serving.answers import STATUS, Problem, RefusedError
from pipeline.serving.problems import (
    REASON_STATUS,
    ProblemDetails,
    add_problem_handlers,
    problem_of,
)
from transforms.errors import Reason, StageError

SECRET = "a secret that the client sent"


class Wanted(BaseModel):
    number: int
    numbers: list[int] = []


ERRORS = {
    "busy": RefusedError(Problem.BUSY, "come back", 7),
    "key": RefusedError(Problem.UNAUTHORIZED, "no key"),
    "file": StageError(Reason.NOT_AUDIO, "no sound in it"),
    "crash": StageError(Reason.INTERNAL_ERROR, f"OSError: {SECRET}"),
    "bug": ZeroDivisionError(SECRET),
    "teapot": HTTPException(418, "a teapot", {"X-Pot": "tea"}),
    "gateway": HTTPException(502, "no answer"),
    "left": ClientDisconnect(),
}


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/raise/{name}")
    def fail(name: str) -> None:
        raise ERRORS[name]

    @app.post("/wanted")
    def wanted(body: Annotated[Wanted, Body()]) -> None:
        pass

    return TestClient(app, raise_server_exceptions=False)


def test_every_code_has_a_status_that_says_whose_fault_it_is():
    assert set(REASON_STATUS) == set(Reason)
    assert set(STATUS) == set(Problem)
    elsewhere = {Reason.NOT_FOUND: 404, Reason.PERMISSION_DENIED: 403, Reason.INTERNAL_ERROR: 500}
    assert {code: status for code, status in REASON_STATUS.items() if status != 422} == elsewhere
    assert all(400 <= status < 600 for status in STATUS.values())


def test_a_code_means_one_thing():
    assert {reason.value for reason in Reason}.isdisjoint(problem.value for problem in Problem)


@pytest.mark.parametrize("reason", Reason)
def test_a_files_reasons(reason):
    told = problem_of(StageError(reason, "what was found"))
    assert told.reason == reason.value
    assert (told.detail == "what was found") is (reason is not Reason.INTERNAL_ERROR)
    assert told.type.endswith(f":{reason.value}")
    assert told.status == REASON_STATUS[reason]


@pytest.mark.parametrize("problem", Problem)
def test_the_services_own(problem):
    told = problem_of(RefusedError(problem, "what to do"))
    assert (told.reason, told.status, told.detail) == (problem.value, STATUS[problem], "what to do")


@pytest.mark.parametrize(
    ("name", "status", "reason", "header"),
    [
        ("busy", 429, "busy", ("retry-after", "7")),
        ("key", 401, "unauthorized", ("www-authenticate", "Bearer")),
        ("file", 422, "not_audio", None),
        ("crash", 500, "internal_error", None),
        ("bug", 500, "internal", None),
        ("teapot", 418, "invalid_request", ("x-pot", "tea")),
        ("gateway", 502, "internal", None),
    ],
)
def test_what_a_handler_raises(client, name, status, reason, header):
    answer = client.get(f"/raise/{name}")
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    told = ProblemDetails.model_validate_json(answer.content)
    assert (told.status, told.reason) == (status, reason)
    if header:
        assert answer.headers[header[0]] == header[1]
    assert SECRET not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "reason"),
    [
        ("GET", "/nowhere", 404, "no_such_page"),
        ("GET", "/wanted", 405, "method_not_allowed"),
    ],
)
def test_what_the_framework_raises(client, method, path, status, reason):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == reason
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)


@pytest.mark.parametrize(
    "body",
    [f'{{"number": "{SECRET}"}}', f'{{"number": {{"a": "{SECRET}"}}}}', f'"{SECRET}', "", "[]"],
)
def test_an_invalid_body_is_told_without_quoting_it(client, body):
    answer = client.post("/wanted", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["reason"] == "invalid_request"
    assert answer.json()["detail"].startswith("body")
    assert SECRET not in answer.text


def test_many_mistakes_do_not_make_a_long_answer(client):
    answer = client.post("/wanted", json={"number": 1, "numbers": [SECRET] * 10_000})
    assert answer.status_code == 422
    assert len(answer.content) < 3_000


def test_what_json_cannot_hold_does_not_break_the_answer():
    told = problem_of(StageError(Reason.NOT_FOUND, "caf\udce9.mp3: gone\n" + "x" * 10_000))
    assert ProblemDetails.model_validate_json(told.model_dump_json()) == told
    assert told.detail.startswith("caf?.mp3: gone")
    assert len(told.detail) == 2_000


def test_a_client_that_left_is_no_error_of_the_server(client):
    assert client.get("/raise/left").status_code == 499
