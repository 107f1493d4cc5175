"""Tables for people and for docs/benchmarks.md."""

from cases import LOADS, TITLES

BEGIN, END = "<!-- figures: written by scripts/bench --docs -->", "<!-- end of figures -->"


def table(header, rows):
    """A Markdown table whose columns are as wide as they must be."""
    rows = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def case_table(results, case):
    figures = results["cases"].get(case, {})
    nginx = figures.get("nginx")
    rows = []
    for name, figure in figures.items():
        ratio = f"{figure['rate'] / nginx['rate']:.3g}" if nginx else "–"
        cpu = f"{figure['cpu_us']:,.0f}" if name != "direct" else "–"
        cpu_ratio = "–"
        if nginx and nginx["cpu_us"] and name != "direct":
            cpu_ratio = f"{figure['cpu_us'] / nginx['cpu_us']:.3g}"
        times = f"{figure['p50_ms']:.2f}", f"{figure['p99_ms']:.2f}"
        rows.append([name, f"{figure['rate']:,.0f}", ratio, cpu, cpu_ratio, *times, int(figure["failed"])])
    rate = "tokens/s" if LOADS[case][1] == "tokens_per_second" else "requests/s"
    header = ["", rate, "× nginx", "CPU µs/request", "× nginx", "p50 ms", "p99 ms", "failed"]
    return f"### {TITLES[case]}\n\n{table(header, rows)}"


def memory_table(results):
    memory = results["memory"]
    names = list(dict.fromkeys(name for kind in memory.values() for name in kind))
    rows = []
    for name in names:
        streams, idle = memory.get("streams", {}).get(name), memory.get("idle", {}).get(name)
        start = f"{(streams or idle)['before_mb']:.0f}"
        cells = [f"{one['mb']:.0f} ({one['kb_each']:.1f} KB each)" if one else "–" for one in (streams, idle)]
        rows.append([name, start, *cells])
    return "### Memory in MB\n\n" + table(["", "at rest", "1,000 open streams", "10,000 idle connections"], rows)


def goal_table(results):
    rows = [
        [goal["goal"], goal["wanted"], goal["figure"], "met" if goal["met"] else "missed"] for goal in results["goals"]
    ]
    return "### Goals\n\n" + table(["", "wanted", "measured", ""], rows)


def text(results):
    """All of it, as Markdown."""
    about = [
        f"Measured on {results['date']} at commit {results['commit']} on {results['machine']}; {results['placing']}.",
        f"{results['rounds']} rounds of {results['seconds']:g} s for each case and gateway, interleaved; medians.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
    ]
    parts = ["\n".join(about)]
    if results["goals"]:
        parts.append(goal_table(results))
    parts += [case_table(results, case) for case in results["cases"]]
    if any(results["memory"].values()):
        parts.append(memory_table(results))
    if results["skipped"]:
        parts.append("Skipped:\n\n" + "\n".join(f"- {what}: {why}" for what, why in results["skipped"]))
    return "\n\n".join(parts) + "\n"


def into(page, results):
    """Replaces the figures in a page, and leaves what people wrote around them."""
    before = page.read_text()
    head, begin, rest = before.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"error: {page} has no place for figures\n\nhint: put the lines {BEGIN} and {END} into it")
    page.write_text(f"{head}{BEGIN}\n\n{text(results)}\n{END}{tail}")
