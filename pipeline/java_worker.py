"""What a cluster starts for steps in Java, KafkaIO's: ``catalog-labels-java-worker``, for PROCESS.

    catalog-labels-java-worker --id=ID --provision_endpoint=HOST:PORT [...]

It asks the runner as catalog-labels-worker does, and becomes Beam's Java harness. That is part of
the job server's jar, whose path stands in the environment variable CATALOG_LABELS_JAVA_JAR.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from pipeline.boot import ask, worker_environment

JAR_VARIABLE = "CATALOG_LABELS_JAVA_JAR"
_ADDRESSES = ("control", "logging", "status")
# It turns records into pairs and no more: little memory, few threads, a quick start.
_JAVA = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
_HARNESS = "org.apache.beam.fn.harness.FnHarness"


def main(argv: Sequence[str] | None = None) -> None:
    """Become the harness."""
    parser = argparse.ArgumentParser(prog="catalog-labels-java-worker", description=__doc__)
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True, metavar="HOST:PORT")
    for name in _ADDRESSES:
        parser.add_argument(f"--{name}_endpoint", default="", metavar="HOST:PORT")
    options, _ = parser.parse_known_args(argv)
    jar = os.environ.get(JAR_VARIABLE, "")
    if not os.path.isfile(jar):
        sys.exit(f"{JAR_VARIABLE}={jar}: there is no such file on this machine")
    info = ask(options.provision_endpoint, options.id)
    given = {name: getattr(options, f"{name}_endpoint") for name in _ADDRESSES}
    environment = harness_environment(worker_environment(info, options.id, given))
    os.dup2(2, 1)
    os.execvpe("java", [*_JAVA, "-cp", jar, _HARNESS], {**os.environ, **environment})


def harness_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The Python worker's environment variables as the harness calls them."""
    changed = dict(environment)
    changed["HARNESS_ID"] = changed.pop("WORKER_ID")
    return changed


if __name__ == "__main__":
    main()
