"""What is measured, and the goals that Nebula has set itself."""

import statistics
import time

from machine import Skip

# With which the load client is called, and which figure of its report counts as the rate.
LOADS = {
    "json": (["--connections", "32", "--prompt-bytes", "900"], "requests_per_second"),
    "single": (["--connections", "1", "--prompt-bytes", "900"], "requests_per_second"),
    "stream": (["--connections", "32", "--prompt-bytes", "900", "--stream"], "tokens_per_second"),
    "prompt": (["--connections", "16", "--prompt-bytes", "220000"], "requests_per_second"),
}
TITLES = {
    "json": "JSON 1 KB, 32 connections",
    "single": "JSON 1 KB, 1 connection",
    "stream": "stream of 64 tokens without pause, 32 connections",
    "prompt": "220 KB prompt, 16 connections",
}
WARM_UP = ["--duration", "500ms"]
STREAMS, STREAMS_SECONDS = 1_000, 60
IDLE, IDLE_SECONDS = 10_000, 120
# Memory is looked at so often while connections are held, and the most counts.
LOOKS, LOOK_SECONDS = 8, 0.5
# How far two figures of the same may lie apart on a busy machine.
SAME = 1.1


def one(gateway, case, seconds):
    """One measurement of a case."""
    words, rate = LOADS[case]
    load = gateway.load()
    load.run([*words, *WARM_UP])
    before = gateway.cpu()
    report = load.run([*words, "--duration", f"{int(seconds * 1000)}ms"])
    cpu = gateway.cpu() - before
    asked = report["requests"] + report["failed"]
    if report["requests"] == 0:
        raise Skip(f"no request was answered: {report['failures']}")
    return {
        "rate": report[rate],
        "requests": report["requests"],
        "failed": report["failed"],
        "failures": report["failures"],
        "p50_ms": report["latency_ms"]["p50"],
        "p99_ms": report["latency_ms"]["p99"],
        "ttft_p50_ms": (report["ttft_ms"] or {}).get("p50"),
        "cpu_us": cpu / asked * 1e6,
    }


def median(rounds):
    """The medians of all rounds; failures are added up."""
    names = [name for name, value in rounds[0].items() if isinstance(value, (int, float))]
    result = {name: statistics.median(one[name] for one in rounds) for name in names}
    result["failed"] = sum(one["failed"] for one in rounds)
    result["spread"] = max(one["rate"] for one in rounds) / min(one["rate"] for one in rounds)
    return result


def held(gateway, kind):
    """Memory of a fresh gateway, and with many connections held."""
    count, seconds = (STREAMS, STREAMS_SECONDS) if kind == "streams" else (IDLE, IDLE_SECONDS)
    if gateway.connections_max and gateway.connections_max[0] < count:
        most, why = gateway.connections_max
        raise Skip(f"it holds {most:,} connections at most: {why}")
    before = gateway.memory()

    def look():
        seen = []
        for _ in range(LOOKS):
            time.sleep(LOOK_SECONDS)
            seen.append(gateway.memory())
        return max(seen)

    flag = "--hold-streams" if kind == "streams" else "--idle"
    words = [flag, count, "--prompt-bytes", "900"] + ([] if kind == "streams" else ["--max-tokens", "1"])
    most, report = gateway.load().hold(words, seconds, look)
    opened, lost = report[kind]["opened"], report[kind]["lost"]
    if opened < count or lost > 0:
        raise Skip(f"{opened:,} of {count:,} were opened and {lost:,} of these lost {report['failures'] or ''}")
    return {"before_mb": before, "mb": most, "kb_each": (most - before) * 1024 / count}


def goals(results):
    """Each goal: what, the figure, what it should be, and whether it is. Only those that were measured."""
    found = []

    def goal(what, figure, fits, wanted, shown):
        found.append({"goal": what, "figure": shown.format(figure), "wanted": wanted, "met": bool(fits(figure))})

    def of(case, name):
        return results["cases"].get(case, {}).get(name)

    def ratio(case, figure, name="nebula", to="nginx"):
        mine, theirs = of(case, name), of(case, to)
        return mine[figure] / theirs[figure] if mine and theirs and theirs[figure] else None

    least = [
        ("JSON, requests per second against nginx", ratio("json", "rate"), 0.9),
        ("stream, tokens per second against nginx", ratio("stream", "rate"), 1.1),
        ("220 KB prompt, requests per second against nginx", ratio("prompt", "rate"), 1.0),
    ]
    most = [
        ("JSON, processor time per request against nginx", ratio("json", "cpu_us"), 1.5),
        ("stream, processor time against nginx", ratio("stream", "cpu_us"), 1.1),
        (
            f"JSON, processor time per request with {results['deployments']:,} deployments against 1",
            ratio("json", "cpu_us", "nebula, many deployments", "nebula"),
            SAME,
        ),
    ]
    for what, figure, wanted in least:
        if figure is not None:
            goal(what, figure, lambda figure, wanted=wanted: figure >= wanted, f"≥ {wanted} ×", "{:.2f} ×")
    for what, figure, wanted in most:
        if figure is not None:
            goal(what, figure, lambda figure, wanted=wanted: figure <= wanted, f"≤ {wanted} ×", "{:.2f} ×")
    mine, direct = of("single", "nebula"), of("single", "direct")
    if mine and direct:
        added = (mine["p50_ms"] - direct["p50_ms"]) * 1000
        goal("one connection, added latency at the median", added, lambda added: added < 100, "< 100 µs", "{:.0f} µs")
    for kind, what, wanted in (("streams", "1,000 open streams", 64), ("idle", "10,000 idle connections", 150)):
        figure = results["memory"].get(kind, {}).get("nebula")
        if figure:
            goal(f"{what}, memory", figure["mb"], lambda mb, wanted=wanted: mb < wanted, f"< {wanted} MB", "{:.0f} MB")
    routers = [of("json", name) for name in ("vllm-router", "smg", "sglang-router")]
    routers = [router["rate"] for router in routers if router]
    if routers and of("json", "nebula"):
        figure = of("json", "nebula")["rate"] / max(routers)
        goal("JSON, requests per second against the fastest LLM router", figure, lambda f: f >= 3, "≥ 3 ×", "{:.2f} ×")
    return found
