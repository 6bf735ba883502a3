"""The manifests against the schemas of Kubernetes and of the Flink operator, and what they promise.

Kubernetes' schemas are in the package kubernetes-validate. Those of the operator are in its jar on
Maven Central, which Maven fetches once: that test is skipped where there is no Maven.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.clusters import cache_folder
from tests.deploy import commands

KUBERNETES = "1.31"
OPERATOR = "org.apache.flink:flink-kubernetes-operator-api:1.10.0"
OPERATOR_SHA256 = "b1f44814e17514fa8395c61b329a3ee9087123a5bda5b21fe1a495d5182c30b6"
CRD = "META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"
DOCUMENTS = {f"{d['kind']}/{d['metadata']['name']}": d for d in commands.documents()}
FLINK = DOCUMENTS["FlinkDeployment/catalog-labels-flink"]
CORE = [name for name in DOCUMENTS if not name.startswith("FlinkDeployment/")]


@pytest.mark.parametrize("name", CORE)
def test_kubernetes_takes_it(name) -> None:
    """Strict: a field that Kubernetes does not know is an error."""
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES, strict=True)


@pytest.mark.parametrize("wrong", [{"bakcoffLimit": 1}, {"backoffLimit": "three"}])
def test_a_wrong_field_would_be_seen(wrong) -> None:
    document = copy.deepcopy(DOCUMENTS["Job/catalog-labels-on-flink"])
    document["spec"] |= wrong
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def merged_pod() -> dict[str, Any]:
    """A TaskManager's pod as the operator makes it: containers by name, the rest side by side."""
    common, own = commands.pod_specs(FLINK)
    containers = {c["name"]: dict(c) for c in common["containers"]}
    for container in own["containers"]:
        containers.setdefault(container["name"], {}).update(container)
    containers["flink-main-container"]["image"] = FLINK["spec"]["image"]
    volumes = [*common["volumes"], *own["volumes"]]
    return {**common, **own, "containers": list(containers.values()), "volumes": volumes}


def test_kubernetes_takes_the_pod_of_a_taskmanager() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": merged_pod()}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.fixture(scope="module")
def crd() -> dict[str, Any]:
    if shutil.which("mvn") is None:
        pytest.skip("no mvn here, which fetches the Flink operator's schema")
    _, name, version = OPERATOR.split(":")
    jar = cache_folder() / "schemas" / f"{name}-{version}.jar"
    if not jar.exists():
        fetch = ["mvn", "--quiet", "--batch-mode", "dependency:copy", f"-Dartifact={OPERATOR}",
                 f"-DoutputDirectory={jar.parent}"]  # fmt: skip
        subprocess.run(fetch, check=True, timeout=300, capture_output=True)
    assert hashlib.sha256(jar.read_bytes()).hexdigest() == OPERATOR_SHA256
    with zipfile.ZipFile(jar) as archive:
        found = yaml.safe_load(archive.read(CRD))
    (version,) = [v for v in found["spec"]["versions"] if v["name"] == "v1beta1"]
    return closed(version["schema"]["openAPIV3Schema"])


def closed(schema: Any) -> Any:
    """The schema, in which an unknown field is an error, as kubectl --validate=strict has it."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(
        "x-kubernetes-preserve-unknown-fields"
    ):
        schema.setdefault("additionalProperties", False)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
    return schema


def checked_by_operator(document: dict[str, Any], crd: dict[str, Any]) -> None:
    rest = {key: value for key, value in document.items() if key not in ("metadata", "apiVersion")}
    schema = copy.deepcopy(crd)
    schema["properties"]["kind"] = {"const": "FlinkDeployment"}
    jsonschema.Draft7Validator(schema).validate(rest)


@pytest.mark.slow
def test_the_flink_operator_takes_it(crd) -> None:
    assert FLINK["apiVersion"] == "flink.apache.org/v1beta1"
    checked_by_operator(FLINK, crd)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"), [("flinkVersion", "v0_1"), ("mode", "native-ish"), ("replicas", 3)]
)
def test_the_flink_operator_s_schema_sees_a_wrong_field(crd, field, value) -> None:
    document = copy.deepcopy(FLINK)
    document["spec"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        checked_by_operator(document, crd)


def all_pods() -> list[dict[str, Any]]:
    others = [pod for name in CORE for pod in commands.pod_specs(DOCUMENTS[name])]
    return [merged_pod(), *others]


@pytest.mark.parametrize("pod", all_pods(), ids=lambda pod: pod["containers"][-1]["name"])
def test_nothing_runs_as_root_or_without_bounds(pod) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    mounted = {mount["name"] for c in pod["containers"] for mount in c["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert not context["allowPrivilegeEscalation"]
        if container["name"] == "flink-main-container":  # the operator's part: taskManager.resource
            continue
        assert context["readOnlyRootFilesystem"]
        assert container["resources"]["limits"]["memory"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/tmp"}


def test_a_worker_for_each_slot_and_a_core_for_each_worker() -> None:
    spec = FLINK["spec"]
    slots = int(spec["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    parallelism = int(spec["flinkConfiguration"]["parallelism.default"])
    assert parallelism == slots * spec["taskManager"]["replicas"]
    (pool,) = [c for c in merged_pod()["containers"] if c["name"] == "sdk-workers"]
    assert int(pool["resources"]["requests"]["cpu"]) == slots


def test_versions_are_those_of_the_job_servers() -> None:
    """deploy/local_cluster.sh builds job servers for the clusters that it starts."""
    pins = (commands.DEPLOY / "requirements" / "flink.txt").read_text()
    flink = pins.split("apache-flink==")[1].split()[0]
    assert FLINK["spec"]["image"].split(":")[1].startswith(f"{flink}-")
    assert FLINK["spec"]["flinkVersion"] == "v" + "_".join(flink.split(".")[:2])
    spark = (commands.DEPLOY / "requirements" / "spark.txt").read_text()
    version = spark.split("pyspark==")[1].split()[0]
    images = {c["image"] for _, c in commands.containers() if "/spark:" in c.get("image", "")}
    assert {image.split(":")[1].split("-")[0] for image in images} == {version}
    copied = (commands.DEPLOY / "kubernetes" / "launcher.Dockerfile").read_text()
    assert f"flink-{'.'.join(flink.split('.')[:2])}-job-server.jar" in copied


def test_a_launcher_is_retried_for_status_1_alone() -> None:
    for name in ("Job/catalog-labels-on-flink", "Job/catalog-labels-on-spark"):
        rules = DOCUMENTS[name]["spec"]["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]
        assert rules[1]["onExitCodes"]["operator"] == "NotIn"
        assert rules[1]["onExitCodes"]["values"] == [1]


def test_every_image_that_is_named_can_be_built() -> None:
    built = {"catalog-labels": Path("Dockerfile"),
             "catalog-labels-launcher": Path("kubernetes/launcher.Dockerfile")}  # fmt: skip
    named = {c["image"].split("/")[-1].split(":")[0] for _, c in commands.containers()
             if "example.com" in c.get("image", "")}  # fmt: skip
    assert named == set(built)
    for path in built.values():
        assert (commands.DEPLOY / path).exists()
