"""What the container files promise: hardening, few published ports, pinned packages, settings that are all listed."""

import json
import re
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.preprocess.settings import ApiSettings
from services.rest.settings import PREFIX, RestSettings

ROOT = Path(__file__).parents[3]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
#: NVIDIA's exporter is the one container that is not ours to harden.
OURS = {name: service for name, service in SERVICES.items() if name != "dcgm-exporter"}
EXTRAS = {
    "preprocess.txt": "preprocess",
    "preprocess-worker.txt": "preprocess-worker",
    "rest.txt": "rest",
    "trainer.txt": "trainer",
}


def pins(name):
    """Package to pinned version of a requirement file."""
    lines = (ROOT / "deploy/requirements" / name).read_text().splitlines()
    return dict(re.match(r"([\w.-]+)==([^ ]+)", line).groups() for line in lines if line and line[0] not in "# ")


def wanted(extra):
    """Requirements of an extra, those of the extras that it names included."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    for text in project["optional-dependencies"][extra]:
        requirement = Requirement(text)
        found += [requirement] if requirement.name != "turnloom" else []
        found += [one for name in requirement.extras if requirement.name == "turnloom" for one in wanted(name)]
    return found


@pytest.mark.parametrize("name", OURS)
def test_a_container_has_a_read_only_root_no_capabilities_and_no_way_to_gain_privileges(name):
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert "ulimits" not in service
    assert "privileged" not in service


def test_only_the_apis_and_the_monitoring_are_published_and_on_loopback_by_default():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"preprocess", "rest", "prometheus", "alertmanager", "grafana"}
    assert all(port.startswith("${TURNLOOM_BIND:-127.0.0.1}:") for ports in published.values() for port in ports)


def test_redis_and_tuft_are_in_networks_that_publish_nothing():
    assert SERVICES["redis"]["networks"] == ["back"]
    assert {tuple(SERVICES[name]["networks"]) for name in ("tuft", "tuft-cpu")} == {("tuft", "records"), ("tuft",)}
    assert yaml.safe_load(COMPOSE)["networks"]["back"] == {"internal": True}


def test_the_trainer_has_time_to_save_and_its_host_a_name():
    for name in ("trainer", "trainer-cpu"):
        assert SERVICES[name]["stop_grace_period"] == "5m"
        assert "TURNLOOM_HOST" in SERVICES[name]["environment"]
    assert SERVICES["trainer-cpu"]["command"][-1] == "--allow-cpu"
    devices = SERVICES["trainer"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["utility"]}]


def test_every_setting_of_the_compose_file_is_in_the_example_and_no_secret_has_a_value_there():
    example = dict(
        line.split("=", 1)
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line[:60] and line[0] != "#"
    )
    used = set(re.findall(r"\$\{(\w+)", COMPOSE))
    assert used <= example.keys()
    assert example.keys() - used == {"COMPOSE_PROFILES"}
    secrets = {name for name in used if "PASSWORD" in name or name.endswith(("API_KEY", "SECRET"))}
    assert {name for name in secrets if example[name]} == set()
    made = (ROOT / "scripts/make_env.sh").read_text()
    assert [name for name in secrets if name.startswith("REDIS_PASSWORD_") or f"{name}=" in made] == list(secrets)


def test_over_a_bucket_every_service_with_a_store_has_its_key_a_way_out_and_room_for_uploads():
    over = yaml.safe_load((ROOT / "docker-compose.s3.yml").read_text())["services"]
    stored = {name: one for name, one in SERVICES.items() if "TURNLOOM_STORE_URL" in one.get("environment", {})}
    assert over.keys() == stored.keys()
    for name, service in over.items():
        given = service["environment"]
        passed_on = {key for key, value in given.items() if value is None}
        assert passed_on >= {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"}
        assert service["networks"] == ["front"], "back has no way out"
        mounted = [volume.split(":")[1] for volume in stored[name]["volumes"] if not volume.endswith(":ro")]
        folders = [given[key] for key in ("TMPDIR", "TURNLOOM_STORE_CACHE") if key in given]
        assert all(any(folder.startswith(place) for place in mounted) for folder in folders), "the root is read-only"
        assert ("TURNLOOM_STORE_CACHE" in given) == name.startswith("trainer")


def test_what_the_api_and_its_worker_read_of_a_source_is_decided_alike():
    api, worker = (SERVICES[name]["environment"] for name in ("preprocess", "preprocess-worker"))
    for name in ("SOURCE_ROOTS", "STORE_URL"):
        assert api[f"TURNLOOM_{name}"] == worker[f"TURNLOOM_{name}"]
    known = {f"TURNLOOM_{field.name.upper()}" for field in fields(ApiSettings)}
    for service in ("preprocess", "preprocess-worker", "tokens"):
        names = {name for name in SERVICES[service]["environment"] if name.startswith("TURNLOOM_")}
        assert names <= known, "a setting that no process reads"


def test_the_settings_of_the_http_service_are_known_to_it_and_shared_with_its_notifier():
    known = {f"{PREFIX}{field.name.upper()}" for field in fields(RestSettings)}
    rest, notifier = (SERVICES[name]["environment"] for name in ("rest", "notifier"))
    assert rest.keys() | notifier.keys() <= known | {f"{PREFIX}API_TLS_CA"}
    assert rest.items() <= notifier.items()
    assert SERVICES["rest"]["networks"] == SERVICES["notifier"]["networks"] == ["front"]
    assert SERVICES["rest"]["volumes"] == SERVICES["notifier"]["volumes"]


def test_prometheus_sends_its_alerts_to_an_alertmanager_that_has_a_receiver_for_each():
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    assert prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] == ["alertmanager:9093"]
    config = yaml.safe_load((ROOT / "deploy/alertmanager/alertmanager.yml").read_text())
    receivers = {receiver["name"] for receiver in config["receivers"]}
    assert {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])} <= receivers
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    severities = {rule["labels"]["severity"] for group in rules["groups"] for rule in group["rules"]}
    assert severities == receivers
    named = re.findall(
        r"[A-Z][A-Za-z]+",
        " ".join(m for r in config["inhibit_rules"] for m in r["source_matchers"] + r["target_matchers"]),
    )
    assert set(named) <= alerts


def test_only_the_tokens_command_may_write_the_tokens():
    mounts = {
        name: [mount for mount in service.get("volumes", ()) if mount.startswith("tokens:")]
        for name, service in SERVICES.items()
    }
    assert {name for name, found in mounts.items() if found} == {"preprocess", "tokens"}
    assert mounts["preprocess"] == ["tokens:/var/lib/turnloom/tokens:ro"]


def test_tuft_on_a_gpu_host_keeps_its_records_in_a_redis_that_nobody_else_reaches():
    served = yaml.safe_load((ROOT / "deploy/models/tuft-gpu.yaml").read_text())
    example = yaml.safe_load((ROOT / "deploy/tuft/gpu.yaml").read_text())
    for name in ("micro_batch_size", "max_lora_rank", "max_model_len", "capabilities"):
        assert served["supported_models"][0][name] == example["supported_models"][0][name]
    assert served["persistence"]["mode"] == "REDIS"
    assert {name for name, service in SERVICES.items() if "records" in service.get("networks", ())} == {
        "tuft",
        "tuft-fsdp",
        "tuft-records",
    }
    assert SERVICES["tuft-records"]["networks"] == ["records"]
    assert yaml.safe_load(COMPOSE)["networks"]["records"] == {"internal": True}


def test_the_gpu_model_has_one_name_wherever_a_person_meets_it():
    (configured,) = tomllib.loads((ROOT / "deploy/models/gpu.toml").read_text())["models"]
    served = [
        yaml.safe_load((ROOT / path).read_text()) for path in ("deploy/models/tuft-gpu.yaml", "deploy/tuft/gpu.yaml")
    ]
    notebook = json.loads((ROOT / "examples/chat_sft.ipynb").read_text())
    (cell,) = ["".join(cell["source"]) for cell in notebook["cells"] if cell.get("id") == "settings"]
    settings: dict[str, dict[str, str]] = {}
    exec(cell, settings)
    names = {configured["name"], settings["GPU_HOST"]["model"]}
    names |= {model["model_name"] for file in served for model in file["supported_models"]}
    assert len(names) == 1, names


@pytest.mark.parametrize("name", EXTRAS)
def test_pins_satisfy_what_the_project_asks_for(name):
    pinned = pins(name)
    for requirement in wanted(EXTRAS[name]):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), (
            f"{requirement} is pinned to {version}; run deploy/requirements/lock.sh"
        )


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/requirements").glob("*.txt")), ids=lambda path: path.name)
def test_every_package_has_a_hash_and_no_index_is_named(path):
    text = path.read_text()
    blocks = [block for block in re.split(r"\n(?=\S)", text) if "==" in block.splitlines()[0]]
    assert blocks
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("name", EXTRAS)
def test_no_torch_and_no_cuda_comes_into_an_image_of_ours(name):
    assert not [package for package in pins(name) if re.match(r"torch|triton|cuda-|nvidia-(?!ml-py)", package)]


def test_dockerfiles_build_without_buildkit_and_not_as_root():
    for path in (ROOT / "deploy/docker").glob("*.Dockerfile"):
        text = path.read_text()
        assert "# syntax=" not in text, path
        assert "--mount" not in text, path
        assert "\nUSER 10001:10001\n" in text, path
        assert "\nHEALTHCHECK " in text, path


def test_only_the_exporter_reads_everything_and_nobody_but_the_api_and_the_supervisor_writes_all_records():
    users = {
        line.split()[1]: line.split()
        for line in (ROOT / "deploy/redis/users.acl").read_text().splitlines()
        if line.startswith("user ")
    }
    assert {name for name, words in users.items() if "~tl:*" in words} == {"api", "supervisor"}
    assert "%R~tl:api:*" in users["trainer"]
    assert not [word for word in users["exporter"] if word.startswith(("~", "&", "+@all", "+@write"))]
    assert "+ping" in users["default"]
    assert "-@all" in users["default"]


def test_the_container_stage_finds_the_tags_that_its_stand_ins_get():
    script = (ROOT / "scripts/ci_containers.sh").read_text()
    function = re.search(r"^image_of\(\) .*$", script, re.MULTILINE).group()
    calls = re.findall(r"\$\((image_of [^)]*)\)", script)
    tags = [
        subprocess.run(
            ["bash", "-c", f"{function}\n{call}"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        for call in calls
    ]
    images = {service["image"] for service in SERVICES.values()}
    assert tags[0] == re.search(r"PYTHON_IMAGE=(.*)", (ROOT / "deploy/docker/trainer.Dockerfile").read_text()).group(1)
    assert len(tags) == 3
    assert set(tags[1:]) <= images


def test_one_model_over_two_gpus_differs_from_one_on_one_gpu_in_its_backend_alone():
    fsdp, one = (yaml.safe_load((ROOT / f"deploy/tuft/gpu{name}.yaml").read_text()) for name in ("-fsdp", ""))
    ours, theirs = (config["supported_models"][0] for config in (fsdp, one))
    of_the_backend = {"training_backend", "fsdp_num_gpus", "fsdp_rank_slots", "fsdp_master_port", "max_lora_rank"}
    assert {name: ours[name] for name in ours.keys() - of_the_backend} == {
        name: theirs[name] for name in theirs.keys() - of_the_backend
    }
    assert max(ours["fsdp_rank_slots"]) == ours["max_lora_rank"]
    assert {name: fsdp[name] for name in fsdp.keys() - {"supported_models"}} == {
        name: one[name] for name in one.keys() - {"supported_models"}
    }


def test_the_container_of_two_gpus_stands_in_for_the_one_of_one():
    one, both = SERVICES["tuft"], SERVICES["tuft-fsdp"]
    assert both["networks"] == {"tuft": {"aliases": ["tuft"]}, "records": {}}
    assert "./deploy/tuft/gpu-fsdp.yaml:/etc/turnloom/tuft-gpu.yaml:ro" in both["volumes"]
    assert both["environment"] == one["environment"]
    assert (one["profiles"], both["profiles"]) == (["gpu"], ["gpu-fsdp"])
    for name in ("trainer", "tuft-records", "models"):
        assert SERVICES[name]["profiles"] == ["gpu", "gpu-fsdp"]
