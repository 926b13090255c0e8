"""The KubeRay manifest: valid by KubeRay's own schema, and consistent with the image, the package and itself.

The schema (`data/kuberay_rayjob_v1.json`) names every field of a RayJob, the pods' included; a field that it does not
know fails here, where Kubernetes would drop or refuse it. What only a Kubernetes cluster can tell is not checked:
quantities it can serve, the claim and the secret, images.
"""

import copy
import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from layerscope import __version__
from layerscope.config import Config, option
from paths import DATA, ROOT

SCHEMA = json.loads((DATA / "kuberay_rayjob_v1.json").read_text(encoding="utf-8"))
MANIFEST = yaml.safe_load((ROOT / "scripts/rayjob.yaml").read_text(encoding="utf-8"))
SPEC = MANIFEST["spec"]
GROUPS = [SPEC["rayClusterSpec"]["headGroupSpec"], *SPEC["rayClusterSpec"]["workerGroupSpecs"]]


def errors(manifest: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(SCHEMA).iter_errors(manifest)]


def test_the_manifest_is_valid_by_kuberays_schema() -> None:
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("ray.io/v1", "RayJob")
    assert errors(MANIFEST) == []


def misspell_a_field(spec: dict[str, Any]) -> None:
    spec["shutdownAfterJobFinish"] = spec.pop("shutdownAfterJobFinishes")


def misplace_a_volume(spec: dict[str, Any]) -> None:
    pod = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0]["volumes"] = pod.pop("volumes")


def give_a_number_as_text(spec: dict[str, Any]) -> None:
    spec["backoffLimit"] = "3"


def leave_out_the_containers(spec: dict[str, Any]) -> None:
    del spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]


def ask_for_another_authentication(spec: dict[str, Any]) -> None:
    spec["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


@pytest.mark.parametrize(
    "spoil",
    [
        misspell_a_field,
        misplace_a_volume,
        give_a_number_as_text,
        leave_out_the_containers,
        ask_for_another_authentication,
    ],
)
def test_a_mistake_in_the_manifest_is_found(spoil: Callable[[dict[str, Any]], None]) -> None:
    """The schema lets everything pass."""
    spoiled = copy.deepcopy(MANIFEST)
    spoil(spoiled["spec"])
    assert errors(spoiled) != []


def test_the_image_holds_what_the_manifest_says() -> None:
    """One version of layerscope in manifest and image, and all that the image copies is there."""
    dockerfile = (ROOT / "scripts/Dockerfile").read_text(encoding="utf-8")
    images = {container["image"] for group in GROUPS for container in group["template"]["spec"]["containers"]}
    (image,) = images
    assert image.endswith(f"/layerscope:{__version__}")
    assert f"--tag {image} ." in dockerfile
    for line in re.findall(r"^COPY \S+ (.+) \S+$", dockerfile, re.MULTILINE):
        assert all((ROOT / source).exists() for source in line.split())


def test_records_cache_and_login_lie_on_volumes_that_every_pod_mounts() -> None:
    """The records go with the cluster, every retry downloads the weights anew, or a pod cannot read the login."""
    command, subcommand, *words = shlex.split(SPEC["entrypoint"])
    assert (command, subcommand) == ("layerscope", "run")
    assert set(words[::2]) <= {option(name) for name in Config.__dataclass_fields__}
    output = words[words.index("--output-file") + 1]
    for group in GROUPS:
        pod = group["template"]["spec"]
        kinds = {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]}
        (container,) = pod["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        mounts = {mount["mountPath"]: kinds[mount["name"]] for mount in container["volumeMounts"]}

        def lies_on(path: str, mounts: dict[str, set[str]] = mounts) -> set[str]:
            return next(kind for folder, kind in mounts.items() if path.startswith(f"{folder}/"))

        assert lies_on(output) == lies_on(environment["HF_HOME"]) == {"persistentVolumeClaim"}
        assert lies_on(environment["HF_TOKEN_PATH"]) == {"secret"}
        assert not {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"} & set(environment)
        assert mounts["/dev/shm"] == {"emptyDir"}
    assert SPEC["backoffLimit"] > 0
    assert SPEC["shutdownAfterJobFinishes"]


def test_the_head_does_no_work_and_every_worker_has_a_gpu() -> None:
    head, worker = GROUPS
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
