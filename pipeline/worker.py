"""Boot program of DirectRunner's worker processes: Beam's own, without its copy of the log.

Beam sends a worker's log to the launching process, which prints it. Without a handler on the
root logger Python prints all of it a second time, from every worker.
"""

from __future__ import annotations

import logging
import sys

from pipeline.logs import quiet_native_libraries


def main() -> None:
    """Run Beam's SDK worker, as its environment variables say."""
    quiet_native_libraries()
    logging.getLogger().addHandler(logging.NullHandler())
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


if __name__ == "__main__":
    main()
