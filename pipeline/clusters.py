"""What Flink, Spark and Prism need beyond --runner, chosen where the caller says nothing.

A cluster's workers are processes of ``catalog-labels-worker`` (pipeline.boot), which is installed
on each of its machines at the same path as here. What Beam downloads otherwise (job servers,
Prism) is taken from where deploy/local_cluster.sh puts it, if it is there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import apache_beam

from pipeline.flink import ask
from pipeline.flink_streams import FlinkStreamOptions as FlinkStreamOptions  # declares them
from transforms.errors import UsageError

WORKER, JAVA = "catalog-labels-worker", "catalog-labels-java"
JAVA_WORKER = "catalog-labels-java-worker"
_ANSWER_SECONDS = 5.0
# SDK workers without work, from one stage to the next. Less than the pause in front of Flink's next
# try: until it is over, a worker that died is kept, too, and the try fails on it.
_KEPT_MILLISECONDS = 500
_OPEN = ("java.lang", "java.lang.invoke", "java.math", "java.net", "java.nio", "java.text",
         "java.time", "java.util", "java.util.concurrent", "sun.nio.ch")  # fmt: skip
_JVM = [f"--job_server_jvm_properties=--add-opens=java.base/{name}=ALL-UNNAMED" for name in _OPEN]


def cluster_options(runner: str, args: Sequence[str]) -> list[str]:
    """Options for Beam that a runner needs and ``args`` lack.

    Parameters
    ----------
    runner : str
        Of others than FlinkRunner, SparkRunner and PrismRunner nothing is known here.
    args : sequence of str
        What the caller gave, ``--name=value`` or ``--name value``.

    Returns
    -------
    list of str
        To be added.

    Raises
    ------
    UsageError
        If the cluster does not answer, or something is missing on this machine.
    """
    choose = _CHOOSERS.get(runner)
    return [] if choose is None else choose(_given(args))


def _given(args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    for name in ("flink_master", "flink_version", "flink_job_server_jar", "spark_master_url",
                 "spark_job_server_jar", "prism_location", "job_endpoint", "environment_type",
                 "parallelism", "sdk_worker_parallelism", "environment_cache_millis",
                 "job_server_java_launcher"):  # fmt: skip
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(list(args))[0]


def _flink(given: argparse.Namespace) -> list[str]:
    if given.flink_master in (None, "[auto]"):
        raise UsageError(
            "--runner=FlinkRunner needs --flink_master=HOST:PORT, the REST address of a cluster; "
            "deploy/local_cluster.sh flink up starts one here"
        )
    found = _environment(given)
    if given.flink_master == "[local]":
        return [*found, *_in_java(given, "flink-1.19", "flink")]
    overview = ask(given.flink_master, "overview")
    managers = overview["taskmanagers"]
    if not managers:
        raise UsageError(f"--flink_master={given.flink_master}: the cluster has no TaskManager")
    parallelism = int(given.parallelism or _default_parallelism(given.flink_master, overview))
    version = given.flink_version or ".".join(overview["flink-version"].split(".")[:2])
    if given.flink_version is None:
        found.append(f"--flink_version={version}")
    if given.parallelism is None:
        found.append(f"--parallelism={parallelism}")
    if given.environment_cache_millis is None:
        found.append(f"--environment_cache_millis={_KEPT_MILLISECONDS}")
    if given.sdk_worker_parallelism is None:  # of each TaskManager
        found.append(f"--sdk_worker_parallelism={math.ceil(parallelism / managers)}")
    return [*found, *_in_java(given, f"flink-{version}", "flink")]


def _default_parallelism(master: str, overview: dict[str, Any]) -> int:
    """What the cluster's configuration says, or all of its slots: 1 is as Flink comes."""
    settings = {entry["key"]: entry["value"] for entry in ask(master, "jobmanager/config")}
    configured = int(settings.get("parallelism.default", 1))
    return configured if configured > 1 else int(overview["slots-total"])


def _spark(given: argparse.Namespace) -> list[str]:
    master = given.spark_master_url
    if master is None:
        raise UsageError(
            "--runner=SparkRunner needs --spark_master_url=spark://HOST:PORT; "
            "deploy/local_cluster.sh spark up starts one here"
        )
    if master.startswith("spark://"):
        address = urlsplit(master)
        try:
            there = address.hostname or "", address.port or 7077
            socket.create_connection(there, timeout=_ANSWER_SECONDS).close()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--spark_master_url={master}: no Spark master answers there ({error})"
            ) from error
    return [*_environment(given), *_in_java(given, "spark-3", "spark")]


def _prism(given: argparse.Namespace) -> list[str]:
    found = _environment(given)
    if given.job_endpoint is not None:
        return found
    location = given.prism_location
    if location is None:
        location = str(cache_folder() / "prism" / f"prism-{apache_beam.__version__}")
        found.append(f"--prism_location={location}")
    if "://" not in location and not os.access(location, os.X_OK):
        raise UsageError(
            f"--runner=PrismRunner: there is no program {location}; give --prism_location=FILE, or "
            "let deploy/local_cluster.sh prism fetch build it"
        )
    return found


_CHOOSERS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "FlinkRunner": _flink,
    "SparkRunner": _spark,
    "PrismRunner": _prism,
}


def _environment(given: argparse.Namespace) -> list[str]:
    """Workers as processes, unless the caller has chosen: containers or a pool, say."""
    if given.environment_type is not None:
        return []
    command = json.dumps(
        {"command": installed_program(WORKER, "or choose workers by --environment_type")}
    )
    return ["--environment_type=PROCESS", f"--environment_config={command}"]


def installed_program(name: str, otherwise: str) -> str:
    """The path of a program of ours, which stands beside the interpreter.

    Raises
    ------
    UsageError
        If it is not there.
    """
    program = Path(sys.prefix) / "bin" / name
    if not program.is_file():
        raise UsageError(
            f"{program} is missing: install this project there (pip install .), {otherwise}"
        )
    return str(program)


def _in_java(given: argparse.Namespace, kind: str, option: str) -> list[str]:
    """Beam's job server, which the runners in Java share."""
    if given.job_endpoint is not None:
        return []
    if shutil.which("java") is None:
        raise UsageError(
            f"--runner={option.capitalize()}Runner needs Java 11 or 17 for Beam's job server: "
            "install one (Debian, Ubuntu: apt-get install openjdk-17-jre-headless)"
        )
    found = list(_JVM)
    if given.job_server_java_launcher is None:
        java = installed_program(JAVA, "or give --job_server_java_launcher=java")
        found.append(f"--job_server_java_launcher={java}")
    cached = cache_folder() / "jars" / f"{kind}-job-server.jar"
    if getattr(given, f"{option}_job_server_jar") is None and cached.is_file():
        found.append(f"--{option}_job_server_jar={cached}")  # else Beam downloads it
    return found


def cache_folder() -> Path:
    """Where deploy/local_cluster.sh keeps what it fetches."""
    named = os.environ.get("CATALOG_LABELS_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catalog-labels"
