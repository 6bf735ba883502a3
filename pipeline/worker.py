"""Boot program of DirectRunner's worker processes: Beam's own, without its copy of the log.

Beam sends a worker's log to the launching process, which prints it. Without a handler on the
root logger Python prints all of it a second time, from every worker. A worker ends with the
launching process, even if that is killed: the run that goes on from there must be alone.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

from pipeline.logs import quiet_native_libraries

_LOOK_SECONDS = 0.5


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def _not_printed(*_: object, **__: object) -> None:
    """In place of the print of Beam's worker: the tracebacks, which it logs as well."""


def main() -> None:
    """Run Beam's SDK worker, as its environment variables say."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    quiet_native_libraries()
    logging.getLogger().addHandler(logging.NullHandler())
    from apache_beam.runners.worker import sdk_worker, sdk_worker_main

    sdk_worker.print = _not_printed
    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
