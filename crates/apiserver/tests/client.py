"""The Python client against the server: what scripts of operators do. The kubeconfig and a manifest (JSON) are the arguments."""

import json
import sys
import threading

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

GROUP = dict(group="whimbrel.dev", version="v1", plural="virtualmachines")


def main(kubeconfig, manifest):
    config.load_kube_config(kubeconfig)
    machines, core = client.CustomObjectsApi(), client.CoreV1Api()
    place = dict(GROUP, namespace="default")

    made = machines.create_namespaced_custom_object(body=manifest, **place)
    assert made["metadata"]["uid"]
    try:
        machines.create_namespaced_custom_object(body=manifest, **place)
        raise AssertionError("it was made twice")
    except ApiException as error:
        assert (error.status, json.loads(error.body)["reason"]) == (409, "AlreadyExists")

    page = machines.list_namespaced_custom_object(limit=1, label_selector="app=busy", **place)
    assert [item["metadata"]["name"] for item in page["items"]] == ["busy"]

    seen = []
    version = page["metadata"]["resourceVersion"]

    def follow():
        stream = watch.Watch()
        for event in stream.stream(
            machines.list_namespaced_custom_object, resource_version=version, timeout_seconds=60, **place
        ):
            seen.append((event["type"], event["object"]["spec"]["runStrategy"]))
            if event["type"] == "DELETED":
                stream.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    halted = {"spec": {"runStrategy": "Halted"}}
    patched = machines.patch_namespaced_custom_object(name="busy", body=halted, **place)
    assert patched["spec"]["runStrategy"] == "Halted" and patched["metadata"]["generation"] == 2

    stale = dict(patched, metadata=dict(patched["metadata"], resourceVersion=made["metadata"]["resourceVersion"]))
    try:
        machines.replace_namespaced_custom_object(name="busy", body=stale, **place)
        raise AssertionError("a stale object was taken")
    except ApiException as error:
        assert error.status == 409

    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="lab")))
    assert core.read_namespace("lab").status.phase == "Active"
    assert {space.metadata.name for space in core.list_namespace().items} == {"default", "lab"}

    machines.delete_collection_namespaced_custom_object(label_selector="app=busy", **place)
    follower.join(timeout=60)
    assert seen == [("MODIFIED", "Halted"), ("DELETED", "Halted")], seen
    try:
        machines.get_namespaced_custom_object(name="busy", **place)
        raise AssertionError("it is still there")
    except ApiException as error:
        assert error.status == 404


main(sys.argv[1], json.loads(sys.argv[2]))
