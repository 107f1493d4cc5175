"""The agents' protocol as any gRPC client sees it, through server reflection."""

import grpc
import pytest

from cluster import wait_until
from grpc_reflection_client import Client

NODE_ID = "550e8400-e29b-41d4-a716-446655440000"
REGISTER = {
    "node_name": "gpu-node-1",
    "version": "0.1.0",
    "agent_address": "192.168.1.100:9091",
    "capabilities": {
        "gpus": [{"uuid": "GPU-abc123", "name": "NVIDIA A100", "memory_bytes": 42949672960}],
        "total_memory_bytes": 137438953472,
        "os": "linux",
        "arch": "amd64",
        "cpu_cores": 32,
        "cuda_version": "12.1",
    },
}
HEARTBEAT = {
    "node_id": NODE_ID,
    "stats": {
        "cpu_usage_percent": 45.5,
        "memory_used_bytes": 68719476736,
        "memory_total_bytes": 137438953472,
        "gpu_stats": [
            {
                "uuid": "GPU-abc123",
                "utilization_percent": 80.0,
                "memory_used_bytes": 34359738368,
                "memory_total_bytes": 42949672960,
                "temperature_celsius": 72.0,
                "power_watts": 250.0,
            }
        ],
    },
    "health": {"status": "healthy", "uptime_seconds": 86400},
    "timestamp": 1702400000,
}
DEREGISTER = {"node_id": NODE_ID, "reason": "graceful shutdown"}


@pytest.fixture
def client(cluster):
    cluster.start_nebulad()
    with Client(cluster.grpc_addr) as client:
        yield client


def refused(client, method, request):
    with pytest.raises(grpc.RpcError) as caught:
        client.call(f"proto.PlatformService/{method}", request)
    return caught.value.code(), caught.value.details()


def test_the_services_are_listed(client):
    assert {"proto.PlatformService", "grpc.health.v1.Health"} <= client.services()
    for service in ("", "proto.PlatformService"):
        answer = client.call("grpc.health.v1.Health/Check", {"service": service})
        assert answer["status"] == "SERVING", service


def test_register_assigns_an_id(client, cluster):
    answer = client.call("proto.PlatformService/Register", REGISTER)

    assert answer["success"] is True
    assert answer["error"] == ""
    assert answer["assigned_node_id"]
    assert answer["gateway_subdomain"].endswith(".gateway.nebulactl.com")
    assert answer["heartbeat_interval_seconds"] == 30
    assert answer["config"] == {"heartbeat_interval_seconds": 30}
    again = client.call("proto.PlatformService/Register", REGISTER | {"node_id": "auto"})
    assert again["assigned_node_id"]

    node = cluster.node(answer["assigned_node_id"])
    assert (node["name"], node["state"], node["version"]) == ("gpu-node-1", "online", "0.1.0")
    assert node["address"] == "192.168.1.100:9091"
    told = node["capabilities"]
    for field in ("total_memory_bytes", "os", "arch", "cpu_cores", "cuda_version"):
        assert told[field] == REGISTER["capabilities"][field], field
    for field in ("uuid", "name", "memory_bytes"):
        assert told["gpus"][0][field] == REGISTER["capabilities"]["gpus"][0][field], field


def test_the_examples_in_their_order(client, cluster):
    answer = client.call("proto.PlatformService/Register", REGISTER | {"node_id": NODE_ID})
    assert answer["assigned_node_id"] == NODE_ID

    answer = client.call("proto.PlatformService/Heartbeat", HEARTBEAT)
    assert answer["acknowledged"] is True
    assert answer["config"] == {"heartbeat_interval_seconds": 30}
    assert answer["commands"] == []
    assert answer["reregister"] is False

    def told():
        node = cluster.node(NODE_ID)
        return node["stats"] and node["health"] and node

    node = wait_until("the node shows its report", told, 5)
    for field, value in HEARTBEAT["stats"].items():
        if field != "gpu_stats":
            assert node["stats"][field] == value, field
    for field, value in HEARTBEAT["stats"]["gpu_stats"][0].items():
        assert node["stats"]["gpu_stats"][0][field] == value, field
    assert (node["health"]["status"], node["health"]["uptime_seconds"]) == ("healthy", 86400)

    for _ in range(2):
        answer = client.call("proto.PlatformService/Deregister", DEREGISTER)
        assert answer["success"] is True
        assert answer["message"]
    assert wait_until("the node is still listed", lambda: cluster.node(NODE_ID), 5)["state"] == "offline"
    code, details = refused(client, "Heartbeat", HEARTBEAT)
    assert code == grpc.StatusCode.NOT_FOUND and "register" in details.lower(), details

    assert client.call("proto.PlatformService/Register", REGISTER | {"node_id": NODE_ID})["success"] is True
    assert client.call("proto.PlatformService/Heartbeat", HEARTBEAT)["acknowledged"] is True


def test_a_heartbeat_of_nobody_is_not_found(client):
    code, details = refused(client, "Heartbeat", HEARTBEAT | {"node_id": "nobody"})
    assert code == grpc.StatusCode.NOT_FOUND
    assert "nobody" in details and "register" in details.lower(), details


def test_deregistering_nobody_succeeds(client):
    assert client.call("proto.PlatformService/Deregister", DEREGISTER | {"node_id": "nobody"})["success"] is True


@pytest.mark.parametrize("address", ["", "nonsense", "host:", "host:0x", "host:99999", ":9091", "http://host:9091"])
def test_an_agent_address_that_is_none_is_refused(client, cluster, address):
    code, details = refused(client, "Register", REGISTER | {"agent_address": address})
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "agent_address" in details, details
    assert cluster.api("GET", "/nodes").json["data"] == []


def test_numbers_of_the_fields(client):
    """Field numbers are for ever: agents in the field have them compiled in."""
    expected = {
        "proto.RegisterRequest": "node_id=1 node_name=2 version=3 agent_address=4 capabilities=5 deployments=6 "
        "labels=16 join_token=17 proxy_port=18 boot_id=19",
        "proto.NodeCapabilities": "gpus=1 total_memory_bytes=2 available_memory_bytes=3 os=4 arch=5 cpu_cores=6 "
        "cuda_version=7 driver_version=8 supported_runtimes=9",
        "proto.RegisterResponse": "success=1 error=2 assigned_node_id=3 gateway_subdomain=4 "
        "heartbeat_interval_seconds=5 config=6",
        "proto.HeartbeatRequest": "node_id=1 stats=2 health=3 deployments=4 timestamp=5 acked_command_ids=16 boot_id=17",
        "proto.HeartbeatResponse": "acknowledged=1 config=2 commands=3 reregister=16",
        "proto.PlatformCommand": "id=1 type=2 target_id=3 params=4 generation=16 replica_id=17 start=18",
        "proto.DeregisterRequest": "node_id=1 reason=2",
        "proto.DeregisterResponse": "success=1 message=2",
        "proto.AgentDeploymentStatus": "deployment_id=1 status=2 container_id=3 port=4 model=5 runtime=6 "
        "error_message=7 generation=8 replica_id=9 restarts=10 exit_code=11 progress_percent=12 progress_message=13 "
        "out_of_memory=16 inflight=22",
    }
    for name, fields in expected.items():
        found = client.pool.FindMessageTypeByName(name).fields
        assert " ".join(f"{field.name}={field.number}" for field in found) == fields, name
