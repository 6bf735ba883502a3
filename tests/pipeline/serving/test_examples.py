"""The examples of the OpenAPI description are answers as the description has them."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pipeline.serving import schemas


@pytest.mark.parametrize("model", [schemas.LabelledFile, schemas.Served])
def test_an_example_is_as_described(model: type[BaseModel]):
    (example,) = model.model_json_schema()["examples"]
    read = model.model_validate(example)
    assert read.model_dump().keys() == example.keys()
    for name in ("prediction", "windows", "models"):
        for part in _parts(example.get(name)):
            assert set(part) == set(_parts(read.model_dump()[name])[0])


def _parts(value) -> list:
    return value if isinstance(value, list) else [value] if value else []
