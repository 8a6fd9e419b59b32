#!/usr/bin/python3
"""What a fault costs: real daemons on this machine train `toy`, are killed and drained, and what
the coordinator recorded of each recovery is put beside the step time of the same run.

    tests/bench/recovery.py [--rounds N] [--json FILE]

Needs the last build (bazel build //cli //coordinator/service:all //worker/...). Every figure is of
this machine; ratios to the step time carry further than seconds.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "cluster"))
from harness import Cluster, REPOSITORY, ended, wait_until  # noqa: E402

# Steps long enough that what the clock of the machine adds to them doesn't show.
JOB = {
    "training": {"steps": 1000, "micro_batches": 16, "micro_batch_sequences": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
}
PHASES = ("detect", "decide", "fence", "rejoin", "load", "first_step")


def step_seconds(cluster, name):
    return cluster.describe(name)["last_step"]["seconds"]


def recover(cluster, name, fault, epochs):
    """Brings the fault about and returns the recovery it led to, with the step time before it."""
    before = cluster.job(name)
    seconds = step_seconds(cluster, name)
    begun = time.time()
    fault()
    cluster.wait_for_job(name, lambda job: (job["epoch"] >= epochs and job["state"] == "RUNNING"
                                            and job["step"] > before["step"] + 1) or ended(job),
                         90, f"is in epoch {epochs}")
    story = wait_until(lambda: [entry for entry in cluster.recoveries(name)
                                if entry["epoch"] == epochs and entry["first_step"] >= 0],
                       30, "the recovery is complete")[0]
    story["step_seconds"] = seconds
    story["seen_after_s"] = time.time() - begun
    return story


def faults(rounds):
    found = {"rank killed": [], "node killed": [], "drain": []}
    for _ in range(rounds):
        with Cluster(nodes=2, ranks_per_node=2, spares=1) as cluster:
            cluster.begin("hurt", 10, **JOB)
            found["rank killed"].append(recover(
                cluster, "hurt", lambda: os.kill(cluster.rank_pids()[0], signal.SIGKILL), 2))
            found["drain"].append(recover(
                cluster, "hurt", lambda: cluster.ctl("drain", "node-0", "--reason", "bench"), 3))
            cluster.ctl("undrain", "node-0")
            found["node killed"].append(recover(
                cluster, "hurt", lambda: cluster.kill_daemon("node-1"), 4))
            cluster.ctl("cancel", "hurt")
    return found


def coordinator_killed(rounds):
    """Longest gap between two steps of rank 0 while the coordinator is dead and comes back, and the
    median gap before; from the rank's own log of steps."""
    worst = []
    for _ in range(rounds):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            cluster.begin("calm", 20, **dict(JOB, parallelism={"pipeline": 2}))
            usual = step_seconds(cluster, "calm")
            address = cluster.coordinator()["metrics_address"]
            cluster.kill_daemon("coordinator")
            steps = watch_steps(cluster, 3.0)
            cluster.up()
            worst.append({"usual_step_s": usual, "longest_step_s": max(steps), "steps": len(steps),
                          "metrics": address})
            cluster.ctl("cancel", "calm")
    return worst


def watch_steps(cluster, seconds):
    """Durations of the steps that a rank logs in so many seconds."""
    log = None
    for root, _, files in os.walk(cluster.state):
        for file in files:
            if file == "rank-0.log":
                log = os.path.join(root, file)
    begun, durations, position = time.monotonic(), [], os.path.getsize(log)
    while time.monotonic() - begun < seconds:
        wait_until(lambda: os.path.getsize(log) > position, 60, "the rank makes steps")
        with open(log, encoding="utf-8") as stream:
            stream.seek(position)
            text = stream.read()
        whole = text.rfind("\n") + 1
        position += len(text[:whole].encode())
        for line in text[:whole].splitlines():
            step = re.search(r"step \d+ .* ([0-9.]+) s \(", line)
            if step:
                durations.append(float(step.group(1)))
    return durations


def snapshots(rounds):
    """Step time with a snapshot at every step against none, in alternating runs."""
    times = {0: [], 1: []}
    shares = []
    for _ in range(rounds):
        for every in (0, 1):
            with Cluster(nodes=2, ranks_per_node=2) as cluster:
                changes = dict(JOB, recovery={"snapshot_every_steps": every})
                changes["training"] = dict(JOB["training"], steps=40)
                job = cluster.train("shot", **changes)
                times[every].append(job["tokens_per_second"])
                if every:
                    step = cluster.describe("shot")["last_step"]
                    shares.append(step.get("snapshot_seconds", 0) / step["seconds"])
    with_none, with_all = (statistics.median(times[every]) for every in (0, 1))
    return {"tokens_per_second_without": with_none, "tokens_per_second_with": with_all,
            "slowdown": with_none / with_all - 1, "share_of_step": statistics.median(shares)}


def show(found):
    print(f"{'fault':<14}{'step s':>8}" + "".join(f"{phase:>11}" for phase in PHASES) +
          f"{'pause s':>10}{'in steps':>10}{'redone':>8}")
    for name, stories in found.items():
        for story in stories:
            print(f"{name:<14}{story['step_seconds']:>8.3f}" +
                  "".join(f"{story[phase]:>11.3f}" for phase in PHASES) +
                  f"{story['pause_seconds']:>10.3f}"
                  f"{story['pause_seconds'] / story['step_seconds']:>10.2f}"
                  f"{story['steps_redone']:>8}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="write all figures there")
    options = parser.parse_args()
    found = faults(options.rounds)
    show(found)
    calm = coordinator_killed(options.rounds)
    for entry in calm:
        print(f"coordinator killed: {entry['steps']} steps in 3 s meanwhile, longest "
              f"{entry['longest_step_s']:.3f} s, before {entry['usual_step_s']:.3f} s")
    cost = snapshots(options.rounds)
    print(f"snapshots: {100 * cost['share_of_step']:.1f}% of the step's time on a rank, "
          f"{100 * cost['slowdown']:.1f}% less tokens per second")
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY,
                                capture_output=True, text=True).stdout.strip()
        with open(options.json, "w", encoding="utf-8") as stream:
            json.dump({"commit": commit, "faults": found, "coordinator": calm,
                       "snapshots": cost}, stream, indent=1)


if __name__ == "__main__":
    main()
