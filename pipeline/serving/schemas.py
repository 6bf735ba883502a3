"""What the API takes and gives, for its OpenAPI description."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from pipeline.serving import examples
from pipeline.serving.answers import Labelled, ServedModel
from pipeline.serving.problems import ProblemDetails
from pipeline.serving.uploads import FIELD
from transforms.records import PredictionRow, WindowRow, row_dict


def _model_of(name: str, row_class: type, told: str) -> type[BaseModel]:
    """A row class as a model: the same columns, each of them always there."""
    hints = get_type_hints(row_class)
    fields: dict[str, Any] = {
        field.name: (hints[field.name], ...) for field in dataclasses.fields(row_class)
    }
    model: type[BaseModel] = create_model(name, __doc__=told, **fields)
    return model


Prediction = _model_of(
    "Prediction", PredictionRow, "The row that the batch pipeline writes to predictions/."
)
Window = _model_of("Window", WindowRow, "A row of windows/: what the model says of one window.")
Model = _model_of("Model", ServedModel, "A model that is loaded.")


class LabelledFile(BaseModel):
    """A labelled file."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.LABELLED_FILE]})

    prediction: Prediction  # type: ignore[valid-type]
    windows: list[Window] = Field(description="In order of time.")  # type: ignore[valid-type]
    from_cache: bool = Field(description="Whether its bytes were labelled here before.")


class FileOfBatch(BaseModel):
    """One file of a batch: a result, or what is wrong with it."""

    uri: str = Field(description="As it was handed in.")
    result: LabelledFile | None = None
    problem: ProblemDetails | None = None


class LabelledBatch(BaseModel):
    """The files of a batch, in their order."""

    results: list[FileOfBatch]


class ByUri(BaseModel):
    """A file that the server can read itself."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"uri": "/music/song.flac"}]})  # fmt: skip

    uri: str = Field(description="Within a folder that the server was started with as --root.")


class ByUris(BaseModel):
    """Files that the server can read itself."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"uris": ["/music/song.flac", "s3://bucket/music/other.mp3"]}]})  # fmt: skip

    uris: list[str] = Field(min_length=1)


class ServedLimits(BaseModel):
    """What one request may cost."""

    upload_bytes: int
    batch_files: int
    audio_seconds: float
    request_seconds: float
    in_work: int


class Served(BaseModel):
    """What this server does, and up to where."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SERVED]})

    version: str
    models: list[Model]  # type: ignore[valid-type]
    limits: ServedLimits


class Alive(BaseModel):
    """The process answers."""

    status: str = Field(examples=["alive"])


class Ready(BaseModel):
    """Whether requests would be taken."""

    status: str = Field(description="ready, or why not", examples=["ready"])
    model_loaded: bool
    memory_bytes: int | None = Field(description="Resident, of all processes.")
    memory_limit_bytes: int | None
    gpu_memory_free_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None


def labelled_json(labelled: Labelled) -> dict[str, Any]:
    """A result as :class:`LabelledFile` describes it."""
    return {
        "prediction": labelled.prediction,
        "windows": labelled.windows,
        "from_cache": labelled.from_cache,
    }


def model_json(model: ServedModel) -> Mapping[str, Any]:
    """A model as :data:`Model` describes it."""
    return row_dict(model)


def request_body(json_model: type[BaseModel], most_files: int | None = None) -> dict[str, Any]:
    """The OpenAPI of a body that is a form with files, or JSON with uris.

    Parameters
    ----------
    json_model : type
        ByUri or ByUris.
    most_files : int, optional
        None: one file, not in a list.
    """
    file = {"type": "string", "format": "binary", "description": "The sound; any name."}
    field: dict[str, Any] = file
    json_body = json_model.model_json_schema()
    if most_files is not None:
        field = {"type": "array", "items": file, "minItems": 1, "maxItems": most_files}
        json_body["properties"]["uris"]["maxItems"] = most_files
    form = {"type": "object", "properties": {FIELD: field}, "required": [FIELD],
            "additionalProperties": False}  # fmt: skip
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": json_body},
            },
        }
    }


def problems(**examples: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI of answers that are problems: by status (as ``s422="..."``) what they say."""
    content = {"application/problem+json": {"schema": ProblemDetails.model_json_schema()}}
    return {
        int(status.removeprefix("s")): {"description": told, "content": content}
        for status, told in examples.items()
    }
