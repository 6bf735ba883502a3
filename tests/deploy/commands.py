"""The command lines of pipeline.main that stand in deploy/ and docs/deployment.md."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from tests.catalog import ROOT

DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
DAG = DEPLOY / "airflow" / "nightly_labels.py"
METADATA = DEPLOY / "dataflow" / "metadata.json"
TEMPLATE = DEPLOY / "dataflow" / "template.sh"
DOCUMENT = ROOT / "docs" / "deployment.md"
LAUNCHER = "catalog-labels-launcher"  # its image's entrypoint is python -m pipeline.main
VALUES = {"INPUT": "s3://bucket/music", "OUTPUT": "s3://bucket/labels"}


def documents() -> list[dict[str, Any]]:
    """All Kubernetes objects."""
    found = (yaml.safe_load_all(path.read_text(encoding="utf-8")) for path in MANIFESTS)
    return [document for stream in found for document in stream]


def pod_specs(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of an object; those of a FlinkDeployment are parts that the operator merges."""
    spec = document.get("spec", {})
    if document["kind"] == "FlinkDeployment":
        common, manager = spec["podTemplate"], spec["taskManager"]["podTemplate"]
        return [common["spec"], manager["spec"]]
    return [spec["template"]["spec"]] if "template" in spec else []


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for document in documents():
        for pod in pod_specs(document):
            for container in pod["containers"]:
                yield f"{document['metadata']['name']}/{container['name']}", container


def of_manifests() -> dict[str, list[str]]:
    found = {}
    for name, container in containers():
        if LAUNCHER in container.get("image", ""):
            args = [re.sub(r"\$\((\w+)\)", lambda m: VALUES[m[1]], a) for a in container["args"]]
            found[name] = args
    return found


def of_dag() -> list[str]:
    """Read without Airflow: the module's constants, up to the operators."""
    tree = ast.parse(DAG.read_text(encoding="utf-8"))
    constants = [node for node in tree.body if isinstance(node, ast.Assign)]
    names: dict[str, Any] = {}
    code = ast.Module([ast.parse("import os, shlex").body[0], *constants], type_ignores=[])
    exec(compile(code, str(DAG), "exec"), names)
    command: list[str] = names["COMMAND"]
    assert command[1:3] == ["-m", "pipeline.main"]
    return command[3:]


def of_template() -> list[str]:
    """What deploy/dataflow/label.py makes of the parameters that template.sh passes."""
    text = TEMPLATE.read_text(encoding="utf-8")
    values = {"$1": "gs://bucket/music", "$2": "gs://bucket/labels", "$IMAGE": "r.dev/p/c:1"}
    given = [word for line in re.findall(r"--parameters=.*", text.replace("\\\n", ""))
             for word in shlex.split(line) if word.startswith("--parameters=")]  # fmt: skip
    args = [f"--{word.removeprefix('--parameters=')}" for word in given]
    for name, value in values.items():
        args = [arg.replace(name, value) for arg in args]
    return ["--runner=DataflowRunner", *args]


def parameters() -> list[dict[str, Any]]:
    """Of the flex template."""
    found: list[dict[str, Any]] = json.loads(METADATA.read_text(encoding="utf-8"))["parameters"]
    return found


def of_document() -> dict[str, list[str]]:
    blocks = re.findall(r"(?:^    .*\n)+", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [line.split("pipeline.main", 1)[1] for line in lines if "-m pipeline.main" in line]
    return {command.strip(): shlex.split(command) for command in commands}
