"""Where blocks go: a Kafka topic, or a folder with a file for each.

A sink may be used from several threads. What it has taken arrives, or its ``close`` says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

from transforms.errors import StorageError
from transforms.streaming.blocks import Block, encode_block
from transforms.streaming.kafka_client import KAFKA, KafkaTopic, Sender

_DELIVERY_SECONDS = 120.0  # a broker may start anew meanwhile


class BlockSink(Protocol):
    """Takes blocks; raises RunError when it cannot."""

    def send(self, block: Block) -> None: ...
    def close(self) -> None: ...


def open_sink(address: str) -> BlockSink:
    """The sink of an address: ``kafka://HOST:PORT/TOPIC``, or a folder.

    Raises
    ------
    UsageError
        An address that is neither, a broker that does not answer, a topic that is not there, a
        package that is missing.
    StorageError
        A folder that cannot be made.
    """
    if address.startswith(KAFKA):
        return KafkaSink(KafkaTopic.parse(address))
    return FolderSink(Path(address))


class FolderSink:
    """Writes one file for each block, which appears under its name when it is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: {error.strerror}; give another folder") from error

    def send(self, block: Block) -> None:
        path = self._folder / block.file_name
        if path.exists():
            raise StorageError(
                f"{path} is there already; nothing is overwritten, use a new session"
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(exist_ok=True)
            temporary.write_bytes(encode_block(block))
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(
                f"{path}: {error.strerror}; make room or give another folder"
            ) from error

    def close(self) -> None:
        """Nothing is held back."""


class KafkaSink:
    """Produces each block as a message: key the stream's id, timestamp the event time.

    Parameters
    ----------
    topic : KafkaTopic
        Must be there, or the broker makes it.
    producer : Any
        In place of a confluent_kafka.Producer.

    Raises
    ------
    UsageError
        Without the package, without the topic, or if no broker answers.
    """

    def __init__(self, topic: KafkaTopic, producer: Any = None) -> None:
        self._sender = Sender(topic, _DELIVERY_SECONDS, producer)
        self._sender.check_topic()

    def send(self, block: Block) -> None:
        """Hand a block over; waits while the buffer is full."""
        self._sender.send(
            block.stream_id.encode(), encode_block(block), block.event_time_us // 1_000
        )

    def close(self) -> None:
        """Wait until all has arrived.

        Raises
        ------
        StorageError
            If something has not.
        """
        self._sender.flush()
