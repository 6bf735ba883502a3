"""What the service's worker processes do: decode, make images, compute, enhance, follow.

They are forked from a server that has imported this module, so that they start at once. A process
has one job at a time. Over its pipe comes (name of a method, arguments), and back go

    ("part", ...)              as often as the job has parts
    ("end",)                   it is done
    ("failed", reason, message)       the sound is to blame
    ("refused", problem, message)     something else is

The pipe's two ends are of this program: nothing that is unpickled comes from outside.
"""

from __future__ import annotations

import logging
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.logs import quiet_native_libraries, set_up_logging
from pipeline.serve_config import ServeConfig
from pipeline.serving.answers import Problem, RefusedError, Upload
from pipeline.serving.pictures import Picture
from pipeline.serving.prepared import Prepared, announce, prepare
from transforms.audio.sandbox import Sandbox
from transforms.decode import decode_track
from transforms.enhance_file import Workplace, enhance_file
from transforms.errors import Reason, StageError, UsageError
from transforms.fetch import Fetched, copied
from transforms.inference import check_image, check_scores
from transforms.mel import convert
from transforms.models.checkpoint import VIT
from transforms.models.vit import use_threads
from transforms.preprocess import prepare as prepare_window
from transforms.records import FloatArray, LogMelWindow, Track, WindowPrediction, row_dict
from transforms.sound_file import SoundWriter, check_fits
from transforms.stopwatch import StopWatch
from transforms.storage.durable import committed
from transforms.streaming.blocks import MAX_PAYLOAD_BYTES, Block
from transforms.streaming.listening import load_follower
from transforms.streaming.ordering import SessionEnd
from transforms.streaming.rows import LabelRow, StreamFailureRow
from transforms.streaming.stream_state import StreamState

TOO_LONG = "too_long"  # transforms.audio.readers.DecodeWarning

Job = Callable[..., Iterator[Any]]


class SoundWorker:
    """Works on one file or stream after the other.

    Parameters
    ----------
    prepared : Prepared
    """

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._sandbox = Sandbox(prepared.limits)
        self._sandbox.start()
        use_threads(1)

    def label(self, upload: Upload, with_picture: bool) -> Iterator[Any]:
        """Yield LogMelWindows in lists, then the picture's PNG, or None."""
        picture, windows = Picture() if with_picture else None, []
        for window in self._images(upload):
            if picture is not None:
                picture.add(window.image)
            windows.append(window)
            if len(windows) == self._prepared.batch_size:
                yield windows
                windows = []
        if windows:
            yield windows
        yield None if picture is None else picture.png()

    def _images(self, upload: Upload) -> Iterator[LogMelWindow]:
        """What Decode, Preprocess and MelSpectrogram make of a file."""
        prepared, front_end = self._prepared, self._prepared.front_end
        shape = front_end.image_height, front_end.image_width
        limited = prepared.audio_seconds < front_end.decoded_seconds
        decoded = decode_track(
            Track(upload.uri, upload.size_bytes),
            Fetched(upload.path, upload.sha256, upload.size_bytes),
            front_end.changed(max_seconds=prepared.audio_seconds) if limited else front_end,
            min_seconds=prepared.min_seconds,
            sandbox=self._sandbox,
            features=prepared.features,
        )
        enhancer = None if prepared.denoiser is None else prepared.denoiser.load()
        with _named(upload):
            for window in decoded:
                facts = window.facts
                if limited and facts is not None and TOO_LONG in facts.decode_warnings:
                    raise RefusedError(
                        Problem.TOO_LONG,
                        f"more than {prepared.audio_seconds:g} s of sound, which is the limit "
                        "here; label it by python -m pipeline.main",
                    )
                image = convert(prepare_window(window, front_end, enhancer=enhancer), front_end)
                check_image(image.image, shape)
                yield image

    def enhance(self, upload: Upload, folder: Path) -> Iterator[Any]:
        """Yield EnhancedRow's columns but those of the run; ``output`` is in ``folder``."""
        settings = self._prepared.enhance
        if settings is None:
            raise RefusedError(Problem.INVALID_REQUEST, "nothing is enhanced here: see --enhancer")
        source = Fetched(upload.path, upload.sha256, upload.size_bytes)
        workplace = Workplace(str(folder), None, self._sandbox, StopWatch())
        with _named(upload):
            row = enhance_file(upload.uri, source, settings, workplace)
        if TOO_LONG in row["decode_warnings"]:
            Path(row["output"]).unlink()
            raise RefusedError(
                Problem.TOO_LONG,
                f"more than {settings.max_seconds:g} s of sound, which is the limit here; enhance "
                "it by python -m pipeline.enhance",
            )
        yield row

    def flac(self, upload: Upload, output: Path) -> Iterator[Any]:
        """Write what a browser can play; of more than 8 channels their mean."""
        audio_seconds = self._prepared.audio_seconds
        with self._sandbox.open(upload.path, max_seconds=audio_seconds) as audio:
            frames = audio.count_frames()
            info = audio.info
        rule = "mean" if info.channels > 2 else None
        channels = 1 if rule else info.channels
        check_fits("flac", info.sample_rate_hz, channels)
        with (
            committed(str(output)) as draft,
            SoundWriter(draft, "flac", 16, frames=frames, sample_rate_hz=info.sample_rate_hz,
                        channels=channels) as writer,
            self._sandbox.open(
                upload.path, max_seconds=audio_seconds, channel_rule="mean" if rule else None
            ) as audio,
        ):  # fmt: skip
            for block in audio.blocks():
                writer.write(block)
        yield output

    def follow(
        self, stream_id: str, samples: FloatArray, sample_rate_hz: int, state: bytes | None
    ) -> Iterator[Any]:
        """Yield (rows, the state behind them); see pipeline.serving.answers.Service."""
        settings = self._prepared.listen
        if settings is None:
            raise RefusedError(Problem.INVALID_REQUEST, "no streams are followed: see --live_model")
        kept = StreamState() if state is None else StreamState.from_bytes(state)
        follower, rows = load_follower(settings), []
        for block in _blocks(stream_id, samples, sample_rate_hz, kept):
            rows += [*follower.follow(stream_id, [block], kept)]
        if not len(samples):
            rows += [*follower.follow(stream_id, [SessionEnd()], kept)]
        told = [row_dict(row) for row in rows if isinstance(row, (LabelRow, StreamFailureRow))]
        yield told, kept.to_bytes()

    def fetch(self, uri: str, path: Path, most_bytes: int) -> Iterator[Any]:
        """Copy what a uri names to ``path``; yield the Upload."""
        source = copied(uri, path, most_bytes=most_bytes)
        if source is None:
            raise RefusedError(
                Problem.TOO_LARGE, f"{uri}: more than {most_bytes} bytes, which is the limit here"
            )
        yield Upload(uri, source.path, source.sha256, source.size_bytes)


@contextmanager
def _named(upload: Upload) -> Iterator[None]:
    """Failures name a file as it was handed in, not as it lies here."""
    here, name = f"{upload.path.name}: ", PurePosixPath(upload.uri).name
    try:
        yield
    except StageError as error:
        if not error.message.startswith(here):
            raise
        told = f"{name}: {error.message.removeprefix(here)}"
        raise StageError(error.reason, told) from error


def _blocks(
    stream_id: str, samples: FloatArray, sample_rate_hz: int, state: StreamState
) -> Iterator[Block]:
    """Cut a piece of a stream into what its next blocks are, without a gap."""
    frames = MAX_PAYLOAD_BYTES // (4 * max(1, samples.shape[1]))
    for start in range(0, len(samples), frames):
        part = np.ascontiguousarray(samples[start : start + frames], dtype="<f4")
        yield Block(
            stream_id=stream_id,
            sequence=state.sequence + 1,
            event_time_us=state.end_us,
            encoding="pcm_f32le",
            sample_rate_hz=sample_rate_hz,
            channels=part.shape[1],
            payload=part.tobytes(),
        )


class ModelWorker:
    """Computes batches, by the batch pipeline's handler.

    Parameters
    ----------
    prepared : Prepared
    threads : int
        PyTorch's, on a CPU.
    """

    def __init__(self, prepared: Prepared, threads: int) -> None:
        self._prepared = prepared
        use_threads(threads)
        self._handler = prepared.handler
        self._model = self._handler.load_model()
        self._warm_up()

    def _warm_up(self) -> None:
        """The first batch takes longer than those behind it: nobody shall wait for it."""
        if self._prepared.checkpoint.model_type == VIT:
            shape = (self._prepared.batch_size, *self._handler.image_shape)
            frames = np.zeros(shape[:1], dtype=np.int64)
            self._model.predict(np.zeros(shape, dtype=np.float32), frames)

    def predict(self, windows: Sequence[LogMelWindow]) -> Iterator[Any]:
        """Yield a WindowPrediction or a StageError for each window, in one list."""
        yield [_checked(one) for one in self._handler.run_inference(windows, self._model)]

    def gpu_memory(self) -> Iterator[Any]:
        """Yield (free, total) bytes of the GPU, or None on a CPU."""
        if self._prepared.device != "cuda":
            yield None
            return
        import torch

        yield torch.cuda.mem_get_info()


def _checked(prediction: WindowPrediction) -> WindowPrediction | StageError:
    try:
        check_scores(prediction)
    except StageError as error:
        return error
    return prediction


def run_sound_worker(connection: Connection, prepared: bytes) -> None:
    """A process that works on sound; ``prepared`` is a pickled Prepared."""
    _begin()
    worker = SoundWorker(pickle.loads(prepared))
    names = ("label", "enhance", "flac", "follow", "fetch")
    _work(connection, {name: getattr(worker, name) for name in names})


def run_model_worker(connection: Connection, config: ServeConfig, threads: int) -> None:
    """A process that computes; it also looks up what the service was asked for.

    Its first message is ("announced", Announced), or ("wrong", what is wrong), its second
    ("loaded",) or again ("wrong", ...).
    """
    _begin()
    try:
        prepared = prepare(config)
        connection.send(("announced", announce(prepared)))
        worker = ModelWorker(prepared, threads)
    except UsageError as error:
        connection.send(("wrong", str(error)))
        return
    connection.send(("loaded",))
    _work(connection, {name: getattr(worker, name) for name in ("predict", "gpu_memory")})


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that answers
    set_up_logging()
    quiet_native_libraries()


def _work(connection: Connection, jobs: dict[str, Job]) -> None:
    """Do one job after the other until the other side is gone."""
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        try:
            for part in jobs[name](*arguments):
                connection.send(("part", part))
            connection.send(("end",))
        except BrokenPipeError:
            return
        except StageError as error:
            connection.send(("failed", error.reason, error.message))
        except RefusedError as error:
            connection.send(("refused", error.problem, error.message))
        except Exception as error:  # as a batch does: a failure with its type and message
            logging.getLogger(__name__).exception("%s failed", name)
            told = f"{type(error).__name__}: {error}"
            connection.send(("failed", Reason.INTERNAL_ERROR, told))
