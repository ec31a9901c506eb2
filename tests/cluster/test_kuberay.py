"""Test the manifests for KubeRay: its fields by a schema, the pods by those of Kubernetes, and the hardening."""

from pathlib import Path

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster" / "kuberay"
KUBERNETES = "1.31"


def closed(required, optional=""):
    """Return the schema of an object with these fields only; the optional ones are words of a text."""
    fields = {**{name: {} for name in optional.split()}, **required}
    return {"type": "object", "required": list(required), "properties": fields, "additionalProperties": False}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
TEMPLATE = closed({"spec": {"type": "object", "required": ["containers"]}}, "metadata")
HEAD = closed(
    {"rayStartParams": TEXTS, "template": TEMPLATE},
    "serviceType headService enableIngress labels resources",
)
COUNT = {"type": "integer", "minimum": 0}
WORKER = closed(
    {
        "groupName": {"type": "string", "pattern": "^[a-z0-9-]+$"},
        "minReplicas": COUNT,
        "maxReplicas": COUNT,
        "rayStartParams": TEXTS,
        "template": TEMPLATE,
    },
    "replicas numOfHosts suspend idleTimeoutSeconds labels resources scaleStrategy",
)
AUTOSCALER = closed(
    {"version": {"enum": ["v1", "v2"]}},
    "resources image imagePullPolicy env envFrom volumeMounts securityContext idleTimeoutSeconds upscalingMode",
)
CLUSTER = closed(
    {"headGroupSpec": HEAD, "rayVersion": {"type": "string"}, "workerGroupSpecs": {"type": "array", "items": WORKER}},
    "authOptions enableInTreeAutoscaling autoscalerOptions headServiceAnnotations suspend gcsFaultToleranceOptions "
    "managedBy upgradeStrategy",
)
CLUSTER["properties"] |= {"authOptions": closed({"mode": {"enum": ["disabled", "token"]}})}
CLUSTER["properties"] |= {"autoscalerOptions": AUTOSCALER, "enableInTreeAutoscaling": {"type": "boolean"}}
JOB = closed(
    {"entrypoint": {"type": "string"}, "rayClusterSpec": CLUSTER},
    "activeDeadlineSeconds backoffLimit submitterPodTemplate metadata clusterSelector submitterConfig managedBy "
    "deletionStrategy runtimeEnvYAML jobId submissionMode entrypointResources entrypointNumCpus entrypointNumGpus "
    "ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
)
JOB["properties"] |= {"submitterPodTemplate": TEMPLATE, "backoffLimit": COUNT}


def read(name):
    """Return the objects of a manifest."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def specs():
    """Return the specifications of the cluster in both manifests."""
    (cluster,), (job,) = read("raycluster.yaml"), read("rayjob.yaml")
    return {"cluster": cluster["spec"], "job": job["spec"]["rayClusterSpec"]}


def templates():
    """Return the pod templates by name."""
    spec, (job,) = specs()["cluster"], read("rayjob.yaml")
    groups = {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    return {"head": spec["headGroupSpec"]["template"], **groups, "submitter": job["spec"]["submitterPodTemplate"]}


@pytest.mark.parametrize(("name", "schema"), [("raycluster", CLUSTER), ("rayjob", JOB)])
def test_fields_are_those_of_kuberay(name, schema):
    """The manifest has the fields of KubeRay's resources, and all that are required."""
    (manifest,) = read(f"{name}.yaml")
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], schema)


def test_job_has_the_cluster_of_the_other_manifest():
    """Both manifests describe the same cluster."""
    assert specs()["cluster"] == specs()["job"]


@pytest.mark.parametrize("name", ["head", "trainer", "player", "submitter"])
def test_pods_are_valid(name):
    """Kubernetes accepts the pods."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate, of the extra cluster").validate
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": templates()[name]["spec"]}
    validate(pod, KUBERNETES, strict=True)


def test_objects_of_the_base_are_valid():
    """Kubernetes accepts the namespace, the accounts and the network policy."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate, of the extra cluster").validate
    for manifest in read("base.yaml"):
        validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", ["head", "trainer", "player", "submitter"])
def test_pods_fulfil_the_restricted_profile(name):
    """Every container runs without root and without rights, as the namespace enforces."""
    spec = templates()[name]["spec"]
    assert spec["securityContext"]["runAsUser"] == 1000
    assert not spec.get("hostNetwork") and not spec.get("volumes")
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["runAsNonRoot"] and context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["limits"]["memory"]


def test_only_the_head_has_an_identity_in_kubernetes():
    """The autoscaler in the head needs the API; no other pod gets a token for it."""
    accounts = {item["metadata"]["name"]: item for item in read("base.yaml") if item["kind"] == "ServiceAccount"}
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    for name, template in templates().items():
        spec = template["spec"]
        assert spec["serviceAccountName"] in accounts
        assert spec["automountServiceAccountToken"] == (name == "head")


@pytest.mark.parametrize("name", ["head", "trainer", "player"])
def test_grace_is_longer_than_the_drain(name):
    """A pod has 90 seconds to end, and drains its node for 60 of them."""
    spec = templates()[name]["spec"]
    (container,) = spec["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] == 90
    assert command[:2] == ["python", "/opt/sheeprl/drain_node.py"] and command[-2:] == ["--seconds", "60"]
    assert ("--drivers" in command) == (name == "head")


def test_tokens_are_on_and_the_dashboard_stays_inside():
    """Clients need the token, and the head has no address outside the cluster."""
    spec = specs()["cluster"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP" and spec["headGroupSpec"]["enableIngress"] is False


def test_network_policy_covers_all_pods():
    """The policy selects every pod of the namespace, in both directions, and opens no port to all addresses."""
    (policy,) = [item["spec"] for item in read("base.yaml") if item["kind"] == "NetworkPolicy"]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress", "Egress"]
    assert all(rule["from"] for rule in policy["ingress"]) and all(rule["to"] for rule in policy["egress"])
    assert not [source for rule in policy["ingress"] for source in rule["from"] if "ipBlock" in source]
