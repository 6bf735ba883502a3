"""The flex template: its metadata, its program, its command lines."""

from __future__ import annotations

import re
import subprocess
import sys

import jsonschema
import pytest

from pipeline.options import parse_options
from pipeline.runner import _check_known
from tests.catalog import ROOT
from tests.deploy import commands

# The fields that Google documents for a flex template's metadata.
PARAMETER = {
    "type": "object",
    "required": ["name", "label", "helpText"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
        "label": {"type": "string", "minLength": 1, "maxLength": 50},
        "helpText": {"type": "string", "pattern": r"\.$"},
        "isOptional": {"type": "boolean"},
        "regexes": {"type": "array", "items": {"type": "string", "format": "regex"}},
        "paramType": {"enum": ["TEXT", "GCS_READ_FOLDER", "GCS_READ_FILE", "GCS_WRITE_FOLDER"]},
    },
}
METADATA = {
    "type": "object",
    "required": ["name", "parameters"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "description": {"type": "string"},
        "parameters": {"type": "array", "items": PARAMETER},
    },
}
SAMPLES = {  # one value that each parameter takes, one that it must not
    "input": ("gs://bucket/a/**.flac", "/music"),
    "output": ("gs://bucket/labels", "gs://bucket/[labels]"),
    "root": ("gs://bucket", "s3://bucket"),
    "windows": ("3", "some"),
    "top_k": ("10", "0"),
    "verify": ("content", "sha"),
    "sdk_container_image": ("europe-docker.pkg.dev/p/r/catalog-labels:0.1.0", "catalog-labels"),
    "experiments": ("use_runner_v2", "--x"),
    "number_of_worker_harness_threads": ("1", "many"),
}


def test_metadata_has_the_documented_fields() -> None:
    metadata = commands.json.loads(commands.METADATA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(
        METADATA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(metadata)


def test_every_parameter_has_samples() -> None:
    assert {parameter["name"] for parameter in commands.parameters()} == set(SAMPLES)


@pytest.mark.parametrize("parameter", commands.parameters(), ids=lambda p: p["name"])
def test_a_parameter_is_an_option_and_its_regex_means_the_same(parameter) -> None:
    name = parameter["name"]
    right, wrong = SAMPLES[name]
    (pattern,) = parameter["regexes"]
    assert re.fullmatch(pattern, right)
    assert not re.fullmatch(pattern, wrong)
    needed = {"input": "gs://b/a", "output": "gs://b/o"} | {name: right}
    config = parse_options([f"--{key}={value}" for key, value in needed.items()])
    _check_known(list(config.beam_args))


def test_the_required_ones_are_required() -> None:
    required = {p["name"] for p in commands.parameters() if not p.get("isOptional")}
    assert required == {"input", "output", "sdk_container_image"}


def test_the_command_line_passes_parameters_of_the_template() -> None:
    passed = {arg.removeprefix("--").split("=")[0] for arg in commands.of_template()[1:]}
    names = {p["name"]: p for p in commands.parameters()}
    assert passed <= set(names)
    assert passed >= {name for name, p in names.items() if not p.get("isOptional")}
    for arg in commands.of_template()[1:]:
        name, value = arg.removeprefix("--").split("=", 1)
        if name != "sdk_container_image":
            assert re.fullmatch(names[name]["regexes"][0], value)


def test_the_template_s_program_is_pipeline_main_on_dataflow() -> None:
    """As a file, which is how Google's launcher starts it; without a project it is a wrong call."""
    program = commands.DEPLOY / "dataflow" / "label.py"
    done = subprocess.run(
        [sys.executable, program, "--input=a", "--output=o", "--no_such_option=1"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, cwd=program.parent,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: --no_such_option=1: not an option")
