"""What nebulad costs when it does nothing."""

from cluster import call

MEMORY_MAX_BYTES = 30_000_000


def test_nebulad_alone_is_small(cluster):
    nebulad = cluster.start_nebulad()
    for _ in range(20):
        assert call("GET", f"http://{cluster.http_addr}/health").json == {"status": "ok"}
        assert cluster.models() == []
        assert cluster.api("GET", "/nodes").status == 200
    used = nebulad.memory_bytes()
    print(f"{used / 1e6:.1f} MB")
    assert used < MEMORY_MAX_BYTES
