"""What it costs to read a small object of S3, by a client for each and by one for all.

    python -m benchmarks.s3_opening s3://BUCKET/KEY [--times=50] [--s3_endpoint_url=...]

The same object is read again and again in one thread. core-ms are those of this process, ms those
of the clock; the network and the server are in the latter alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from transforms.storage.s3_clients import share_s3_clients


def read(uri: str) -> None:
    with FileSystems.open(uri) as source:
        source.read()


def measure(uri: str, times: int) -> tuple[float, float]:
    """Milliseconds of the clock and of a core, of one read."""
    read(uri)  # imports, and a shared client is made
    began, began_core = time.perf_counter(), time.process_time()
    for _ in range(times):
        read(uri)
    seconds, core_seconds = time.perf_counter() - began, time.process_time() - began_core
    return 1e3 * seconds / times, 1e3 * core_seconds / times


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.s3_opening",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("uri", metavar="s3://BUCKET/KEY")
    parser.add_argument("--times", type=int, default=50, help="(default: %(default)s)")
    options, beam_args = parser.parse_known_args(argv)
    FileSystems.set_options(PipelineOptions(beam_args))
    print("| client | ms | core-ms |\n|---|--:|--:|")
    print("| for each | {:.1f} | {:.1f} |".format(*measure(options.uri, options.times)))
    share_s3_clients()
    print("| one for all | {:.1f} | {:.1f} |".format(*measure(options.uri, options.times)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
