"""Every error of the API as ``application/problem+json`` (RFC 9457), with a closed reason.

The reason is a value of :class:`transforms.errors.Reason` where a file is to blame, as in the
batch pipeline's failures, and of :class:`pipeline.serving.answers.Problem` otherwise. Neither a
traceback nor the body of a request ever gets into an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pipeline.serving.answers import STATUS, Problem, RefusedError
from transforms.errors import Reason, StageError

MEDIA_TYPE = "application/problem+json"
REASON_HEADER = "X-Reason"
"""Has the reason too, for logs and metrics that do not read bodies."""

REASON_STATUS: Mapping[Reason, int] = {
    **dict.fromkeys(Reason, 422),  # the file, or what it asks of a decoder
    Reason.NOT_FOUND: 404,
    Reason.PERMISSION_DENIED: 403,
    Reason.INTERNAL_ERROR: 500,
}

_OF_STATUS = {  # what the frameworks raise by number
    401: Problem.UNAUTHORIZED,
    403: Problem.FORBIDDEN,
    404: Problem.NO_SUCH_PAGE,
    405: Problem.METHOD_NOT_ALLOWED,
    413: Problem.TOO_LARGE,
    429: Problem.RATE_LIMITED,
    503: Problem.OVERLOADED,
    504: Problem.OUT_OF_TIME,
}
_MOST_CHARACTERS = 2_000  # of a detail
_MOST_MISTAKES = 5  # of a request that are told
_OURS = "something went wrong here, not with your request; the server's log says what"
_CLIENT_HAS_LEFT = 499  # nobody reads it; nginx's number, for the access log

_log = logging.getLogger(__name__)


class ProblemDetails(BaseModel):
    """Why a request, or one file of it, has no result."""

    type: str = Field(
        description="A URN made of the reason.", examples=["urn:catalog-labels:problem:not_audio"]
    )
    title: str = Field(description="The reason, for a person.", examples=["Not audio"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What was found and what to do about it.",
        examples=["neither a known container nor a known codec"],
    )
    reason: str = Field(
        description="A code of a closed set: a batch failure's reason, or the service's own.",
        examples=["not_audio"],
    )


def problem_of(error: Exception) -> ProblemDetails:
    """What an error is to the client.

    Parameters
    ----------
    error : Exception
        Of any other kind than RefusedError and StageError, and of an internal_error, nothing is
        told but that it happened: its message may have paths of this machine.

    Returns
    -------
    ProblemDetails
    """
    if isinstance(error, StageError):
        told = _OURS if error.reason is Reason.INTERNAL_ERROR else error.message
        return _problem(error.reason, REASON_STATUS[error.reason], told)
    if isinstance(error, RefusedError):
        return _problem(error.problem, STATUS[error.problem], error.message)
    return _problem(Problem.INTERNAL, STATUS[Problem.INTERNAL], _OURS)


def problem_response(error: Exception) -> Response:
    """The answer to a request that ended in an error."""
    headers = {}
    if isinstance(error, RefusedError):
        if error.retry_after_seconds is not None:
            headers["Retry-After"] = str(error.retry_after_seconds)
        if error.problem is Problem.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
    return _response(problem_of(error), headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application, the framework's own included, a problem."""
    for kind in (RefusedError, StageError, Exception):
        app.add_exception_handler(kind, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def _problem(code: Reason | Problem, status: int, detail: str) -> ProblemDetails:
    # File names may hold what UTF-8 cannot.
    written = detail.encode("utf-8", "replace").decode()
    if len(written) > _MOST_CHARACTERS:
        written = written[: _MOST_CHARACTERS - 1] + "…"
    return ProblemDetails(
        type=f"urn:catalog-labels:problem:{code.value}",
        title=code.value.replace("_", " ").capitalize(),
        status=status,
        detail=written,
        reason=code.value,
    )


def _response(problem: ProblemDetails, headers: Mapping[str, str] | None = None) -> Response:
    body = problem.model_dump_json(exclude_none=True)
    told = {REASON_HEADER: problem.reason, **(headers or {})}
    return Response(body, problem.status, told, MEDIA_TYPE)


async def _on_error(request: Request, error: Exception) -> Response:
    return problem_response(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    mistakes = [_mistake(found) for found in error.errors()[:_MOST_MISTAKES]]
    return problem_response(RefusedError(Problem.INVALID_REQUEST, "; ".join(mistakes)))


def _mistake(found: Mapping[str, Any]) -> str:
    """Where and what, without the input that pydantic quotes beside it."""
    where = ".".join(str(part)[:40] for part in found["loc"])
    return f"{where}: {found['msg']}"


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    other = Problem.INTERNAL if error.status_code >= 500 else Problem.INVALID_REQUEST
    code = _OF_STATUS.get(error.status_code, other)
    told = {
        Problem.NO_SUCH_PAGE: "there is nothing at this address; /openapi.json lists what there is",
        Problem.METHOD_NOT_ALLOWED: "this address takes another method; see the header Allow",
    }.get(code, str(error.detail))
    return _response(_problem(code, error.status_code, told), error.headers)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    _log.debug("a client left before it had sent everything")
    return Response(status_code=_CLIENT_HAS_LEFT)
