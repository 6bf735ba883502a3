"""The command line of ``python -m pipeline.serve``: its help, and a frozen configuration.

Imports neither Beam nor torch, so that ``--help`` and a wrong call answer at once.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.arguments import (
    add_decoder_limits,
    add_features,
    add_front_end,
    add_min_seconds,
    add_model,
    positive,
)
from pipeline.options import front_end_changes
from pipeline.resources import available_bytes, available_cores, choose_workers
from pipeline.serve_config import NONE, ServeConfig
from pipeline.serving.answers import Limits
from transforms.models.enhancer import DEFAULT_ENHANCER

API_KEY = "CATALOG_LABELS_API_KEY"
DEFAULT_LIVE_MODEL = "digits-gru"

_DESCRIPTION = """\
Label music in a browser and by HTTP: a page, and an API that gives the rows of the batch pipeline.

  python -m pipeline.serve
  python -m pipeline.serve --model=CHECKPOINT --host=0.0.0.0 --root=/music --rate_limit=5
  curl -F file=@song.mp3 http://127.0.0.1:7860/v1/labels

The page is at /, the API's description at /openapi.json, metrics at /metrics.
"""
_EPILOG = f"""\
environment: {API_KEY}, a key that the API and the page ask for then (also
--api_key_file); LOG_LEVEL

exit status: 0 stopped by SIGTERM or Ctrl-C, after what was accepted was answered; 2 a wrong call;
1 anything else
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.serve``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.serve",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_address(parser.add_argument_group("address and access"))
    _add_limits(parser.add_argument_group("limits"))
    _add_cache(parser.add_argument_group("cache"))
    _add_models(parser.add_argument_group("model"))
    add_front_end(
        parser.add_argument_group(
            "front end (each changes the result's front_end_fingerprint; default: the checkpoint's)"
        )
    )
    return parser


def _add_address(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    group.add_argument("--port", type=_port, default=7860, help="(default: %(default)s; 0: any)")
    group.add_argument(
        "--allowed_host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that browsers may call it by, *.example.org too; may be repeated (default: "
        "of this machine alone where it listens on a loopback address, else any)",
    )
    group.add_argument(
        "--api_key_file",
        type=Path,
        metavar="FILE",
        help=f"whose first line is the key to ask for (default: {API_KEY} in the environment, or "
        "none)",
    )
    group.add_argument(
        "--rate_limit",
        type=positive(float),
        metavar="PER_SECOND",
        help="requests to the API, and uploads to the page, that one client may send in the long "
        "run (default: no limit)",
    )
    group.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder, or the beginning of uris such as s3://bucket/music/, whose files may be "
        "asked for by uri; may be repeated (default: none)",
    )
    group.add_argument(
        "--page",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the page is there, or the API alone",
    )


def _add_limits(group: argparse._ArgumentGroup) -> None:
    default = Limits()
    group.add_argument(
        "--max_upload_mib",
        type=positive(int),
        default=default.upload_bytes >> 20,
        metavar="MIB",
        help="of one file (default: %(default)s)",
    )
    group.add_argument(
        "--max_files",
        type=positive(int),
        default=default.batch_files,
        help="of one batch (default: %(default)s)",
    )
    group.add_argument(
        "--max_audio_seconds",
        type=positive(float),
        default=default.audio_seconds,
        metavar="SECONDS",
        help="of one file; longer ones are refused (default: %(default)s)",
    )
    group.add_argument(
        "--request_seconds",
        type=positive(float),
        default=default.request_seconds,
        metavar="SECONDS",
        help="until a request must be answered (default: %(default)s)",
    )
    group.add_argument(
        "--max_in_work",
        type=positive(int),
        default=default.in_work,
        metavar="REQUESTS",
        help="accepted and not yet answered; more are turned away with 429 (default: %(default)s)",
    )
    group.add_argument(
        "--memory_limit_mib",
        type=positive(int),
        metavar="MIB",
        help="of all its processes together; above it requests are turned away with 503 (default: "
        "what they take at the start and four fifths of what is free then)",
    )
    group.add_argument(
        "--min_free_disk_mib",
        type=positive(int),
        default=1024,
        metavar="MIB",
        help="on the disk of temporary files, where uploads lie; one that declares to leave less "
        "is turned away with 503 (default: %(default)s)",
    )
    group.add_argument(
        "--shutdown_seconds",
        type=positive(float),
        default=30.0,
        metavar="SECONDS",
        help="for what was accepted to be answered after SIGTERM (default: %(default)s)",
    )
    add_min_seconds(group)
    add_decoder_limits(group)


def _add_cache(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cache",
        type=Path,
        default=default_cache(),
        metavar="FOLDER",
        help=f"what was labelled, by content, model and front end; {NONE}: nothing is kept "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--cache_mib",
        type=positive(int),
        default=1024,
        metavar="MIB",
        help="on disk, then the longest unused goes (default: %(default)s)",
    )
    group.add_argument(
        "--cache_memory_mib",
        type=positive(int),
        default=64,
        metavar="MIB",
        help="in memory (default: %(default)s)",
    )


def _add_models(group: argparse._ArgumentGroup) -> None:
    add_model(group)
    add_features(group)
    group.add_argument(
        "--batch_wait_ms",
        type=positive(float),
        default=5.0,
        metavar="MILLISECONDS",
        help="that a window waits for others to be computed with (default: %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=positive(int),
        default=choose_workers(available_cores(), available_bytes()),
        metavar="PROCESSES",
        help="that decode (default: one per core as far as the memory goes, here %(default)s)",
    )
    group.add_argument(
        "--live_model",
        default=DEFAULT_LIVE_MODEL,
        metavar="RECOGNISER",
        help=f"that follows the microphone; {NONE}: no such tab (default: %(default)s)",
    )
    group.add_argument(
        "--enhancer",
        default=DEFAULT_ENHANCER,
        metavar="CHECKPOINT",
        help=f"that removes noise; {NONE}: no such tab (default: %(default)s)",
    )


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 16:
        raise ValueError
    return value


_port.__name__ = "port"


def default_cache() -> Path:
    """Where results are kept: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "catalog-labels" / "answers"


def parse_options(argv: Sequence[str] | None = None) -> ServeConfig:
    """Parse a command line; argparse ends the process with status 2 if it is wrong."""
    parser = build_parser()
    options = parser.parse_args(argv)
    return ServeConfig(
        host=options.host,
        port=options.port,
        allowed_hosts=tuple(options.allowed_host),
        api_key=_api_key(parser, options.api_key_file),
        rate_per_second=options.rate_limit,
        limits=Limits(
            upload_bytes=options.max_upload_mib << 20,
            batch_files=options.max_files,
            audio_seconds=options.max_audio_seconds,
            request_seconds=options.request_seconds,
            in_work=options.max_in_work,
            roots=tuple(options.root),
        ),
        memory_limit_mib=options.memory_limit_mib,
        min_free_disk_mib=options.min_free_disk_mib,
        shutdown_seconds=options.shutdown_seconds,
        model=options.model,
        front_end_preset=options.front_end,
        front_end_changes=front_end_changes(options),
        precision=options.precision,
        device=options.device,
        batch_size=options.batch_size,
        batch_wait_ms=options.batch_wait_ms,
        embeddings=options.embeddings,
        features=options.features,
        top_k=options.top_k,
        min_seconds=options.min_seconds,
        live_model=options.live_model,
        enhancer=options.enhancer,
        workers=options.workers,
        decode_timeout_seconds=options.decode_timeout_seconds,
        decode_memory_mib=options.decode_memory_mib,
        cache=None if str(options.cache) == NONE else options.cache,
        cache_mib=options.cache_mib,
        cache_memory_mib=options.cache_memory_mib,
        page=options.page,
    )


def _api_key(parser: argparse.ArgumentParser, file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(API_KEY) or None
    try:
        key = file.read_text().partition("\n")[0].strip()
    except (OSError, ValueError) as error:
        parser.error(f"--api_key_file={file} cannot be read: {error}")
    if not key:
        parser.error(f"--api_key_file={file}: its first line is empty")
    return key
