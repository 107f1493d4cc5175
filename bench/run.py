"""Compares gateways on this machine. Called by scripts/bench, which builds what is measured."""

import argparse
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import sys
import time

import cases
import report
from gateway import Direct, Setting
from machine import Process, Skip, allow_files, describe, free_port, output_of, wait_for
from nebula import Nebula, NebulaMany, NebulaWhole
from peers import ALL, Nginx

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "target/bench"
# On fewer cores everything shares all of them.
CORES_TO_PIN = 4
FILES = 24_000
MOST_OF_A_SLOW_ONE = 2.0


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Compares gateways on this machine.")
    parser.add_argument("--quick", action="store_true", help="nebula and nginx only; about two minutes")
    parser.add_argument("--rounds", type=int, help="how often each case is measured (5; quick: 3)")
    parser.add_argument("--seconds", type=float, help="how long each measurement takes (3; quick: 2)")
    parser.add_argument("--only", help="names of gateways, separated by commas")
    parser.add_argument("--cases", help="of " + ", ".join([*cases.LOADS, "memory"]))
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="where the programs are")
    parser.add_argument("--deployments", type=int, default=NebulaMany.count, help="how many are many (10000)")
    parser.add_argument("--docs", action="store_true", help="put the figures into docs/benchmarks.md")
    parser.add_argument("--no-build", action="store_true", help="measure the programs that are there")
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def alone():
    """Two at a time would measure each other, and share a folder."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = open(FOLDER / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit("error: a bench is running already\n\nhint: wait for its end") from None
    return lock


class Bench:
    def __init__(self, args):
        self.args = args
        self.rounds = args.rounds or (3 if args.quick else 5)
        self.seconds = args.seconds or (2 if args.quick else 3)
        self.wanted = args.cases.split(",") if args.cases else [*cases.LOADS, "memory"]
        self.folder = FOLDER / "run"
        self.lock = alone()
        shutil.rmtree(self.folder, ignore_errors=True)
        NebulaMany.count = args.deployments
        programs = {name: args.bin / name for name in ("nebulad", "nebula-agent", "nebula-sim")}
        for program in programs.values():
            if not program.exists():
                raise SystemExit(f"error: {program} is missing\n\nhint: run scripts/bench without --no-build")
        cores, self.placing = self.cores()
        self.setting = Setting(self.folder, programs, free_port(), cores, workers=2)
        self.results = {"cases": {}, "memory": {"streams": {}, "idle": {}}, "skipped": [], "versions": {}}
        self.results["deployments"] = args.deployments
        self.running = {}
        self.upstream = None
        self.many_files = allow_files(FILES) or os.sysconf("SC_OPEN_MAX") >= 2 * cases.STREAMS

    def cores(self):
        if len(os.sched_getaffinity(0)) < CORES_TO_PIN:
            return None, "gateway, upstream and load client share all cores"
        first = sorted(os.sched_getaffinity(0))
        return (set(first[:2]), {first[2]}, {first[3]}), "gateway on two cores, upstream and load client on one each"

    def kinds(self):
        kinds = [Direct, Nginx, Nebula]
        if not self.args.quick:
            kinds += [NebulaMany, NebulaWhole, *ALL]
        if self.args.only:
            only = self.args.only.split(",")
            known = {kind.name for kind in [Direct, Nginx, Nebula, NebulaMany, NebulaWhole, *ALL]}
            short = {"many": NebulaMany.name, "whole": NebulaWhole.name}
            only = [short.get(name, name) for name in only]
            if set(only) - known:
                raise SystemExit(f"error: unknown: {set(only) - known}\n\nhint: known are {sorted(known | set(short))}")
            kinds = [kind for kind in [Direct, Nginx, Nebula, NebulaMany, NebulaWhole, *ALL] if kind.name in only]
        return kinds

    def skip(self, what, why):
        say(f"skipped: {what}: {why}")
        self.results["skipped"].append((what, str(why)))

    def serve(self, words):
        """Starts the upstream anew, on the same port."""
        if self.upstream:
            self.upstream.stop()
        program, port = self.setting.programs["nebula-sim"], self.setting.upstream_port
        command = [program, "runtime", "--port", port, "--ttft", 0, "--workers", 2, *words]
        self.upstream = Process("upstream", command, self.folder, self.setting.upstream_cores)
        said = lambda: "serves" in self.upstream.log.read_text(errors="replace")
        wait_for("the upstream", said, 10, process=self.upstream)

    def start(self, kind):
        gateway = kind(self.setting)
        began = time.monotonic()
        try:
            gateway.start()
        except (Skip, OSError) as why:
            gateway.stop()
            self.skip(kind.name, why)
            return
        if gateway.version:
            self.results["versions"][kind.name.partition(",")[0]] = gateway.version
        say(f"started {kind.name} in {time.monotonic() - began:.1f} s")
        self.running[kind.name] = gateway

    def memory(self, kinds):
        """Each gateway alone and fresh."""
        self.serve(["--token-interval", "1s", "--tokens", 1_000])
        for kind in kinds:
            if kind in (Direct, NebulaMany, NebulaWhole):
                continue
            if kind.slow:
                self.skip(f"memory of {kind.name} with many connections", "opening them takes it minutes")
                continue
            self.start(kind)
            gateway = self.running.pop(kind.name, None)
            if not gateway:
                continue
            for what in ("streams", "idle"):
                if what == "idle" and not self.many_files:
                    self.skip("idle connections", f"{FILES} open files are not allowed here")
                    continue
                try:
                    figure = cases.held(gateway, what)
                    self.results["memory"][what][kind.name] = figure
                    say(f"{kind.name}: {what} {figure['mb']:.0f} MB, at rest {figure['before_mb']:.0f} MB")
                except Skip as why:
                    self.skip(f"{what} with {kind.name}", why)
            gateway.stop()

    def measure(self, kinds):
        self.serve(["--token-interval", 0, "--tokens", 64])
        for kind in kinds:
            self.start(kind)
        for case in cases.LOADS:
            if case not in self.wanted:
                continue
            rounds = {name: [] for name in self.running}
            failed = {}
            for number in range(self.rounds):
                for name, gateway in self.running.items():
                    if name in failed or (gateway.slow and number >= 3):
                        continue
                    seconds = min(self.seconds, MOST_OF_A_SLOW_ONE) if gateway.slow else self.seconds
                    try:
                        rounds[name].append(cases.one(gateway, case, seconds))
                    except Skip as why:
                        failed[name] = why
                        self.skip(f"{cases.TITLES[case]} with {name}", why)
            medians = {name: cases.median(all_rounds) for name, all_rounds in rounds.items() if all_rounds}
            self.results["cases"][case] = {name: figure for name, figure in medians.items() if name not in failed}
            say("\n" + report.case_table(self.results, case) + "\n")

    def run(self):
        kinds = self.kinds()
        try:
            if "memory" in self.wanted:
                self.memory(kinds)
            if set(self.wanted) & set(cases.LOADS):
                self.measure(kinds)
        finally:
            for gateway in self.running.values():
                gateway.stop()
            if self.upstream:
                self.upstream.stop()
        self.results.update(
            date=datetime.date.today().isoformat(),
            commit=output_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]) or "unknown",
            machine=describe(),
            placing=self.placing,
            rounds=self.rounds,
            seconds=self.seconds,
        )
        self.results["goals"] = cases.goals(self.results)
        return self.results


def main():
    args = arguments()
    results = Bench(args).run()
    text = report.text(results)
    stem = FOLDER / ("quick" if args.quick else "results")
    stem.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    stem.with_suffix(".md").write_text(text)
    print(text)
    say(f"written to {stem}.json and {stem}.md")
    if args.docs:
        report.into(ROOT / "docs/benchmarks.md", results)
        say("written to docs/benchmarks.md")
    if not results["cases"] and not any(results["memory"].values()):
        raise SystemExit("error: nothing could be measured")


if __name__ == "__main__":
    main()
