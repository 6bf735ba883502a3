"""What a run may be asked for beyond labels: columns that are null in the rows of other runs.

Predictions say in their schema's metadata, under the name of each extra, whether their run was
asked for it. Rows without one do not count as known in a run that asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from types import MappingProxyType

import pyarrow as pa

from transforms.records import TrackFeatures

EXTRAS = MappingProxyType(
    {
        "embeddings": ("embedding",),
        "features": tuple(field.name for field in dataclasses.fields(TrackFeatures)),
    }
)
"""The columns of each extra, by the name that it has among the options too."""

EXTRA_COLUMNS = frozenset(column for columns in EXTRAS.values() for column in columns)
"""All of them. Files of versions that did not know an extra lack its columns."""


def with_extras(schema: pa.Schema, asked: Set[str]) -> pa.Schema:
    """A schema of predictions that says what their run was asked for."""
    told = {name: str(name in asked).lower() for name in EXTRAS}
    return schema.with_metadata({**(schema.metadata or {}), **told})


def extras_of(schema: pa.Schema) -> frozenset[str]:
    """What the run behind predictions of this schema was asked for."""
    metadata = schema.metadata or {}
    return frozenset(name for name in EXTRAS if metadata.get(name.encode()) == b"true")
