#!/usr/bin/python3
"""Predicted against measured steps of CPU jobs on this machine.

    tests/bench/calibration/run.py [--rounds N] [--out FOLDER]

Profiles the machine (`fathomctl profile`), then trains jobs that no profile was made from: with
ranks as threads (step_bench), in rounds that go through a profile and all jobs in turn, and with
real daemons brought up by `fathomctl local up`, where the prediction is the coordinator's own by
the profile of those rounds. Writes profile-before.yaml, profile.yaml, steps.json, steps.md and
daemons.json, and prints the tables. Run it on a machine that does nothing else; it takes some nine
minutes on two cores. Needs the last build:

    bazel build //cli:fathomctl //coordinator/service:fathom-coordinator \\
        //worker/agent:fathom-worker //worker/calibration:fathom-profile \\
        //tests/bench/calibration:step_bench
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "cluster"))
from harness import Cluster, program  # noqa: E402

SKIPPED_STEPS = 3
JOBS = [  # name, nodes, ranks per node, what of the job differs
    ("one rank", 1, 1, {
        "parallelism": {"pipeline": 1},
        "training": {"steps": 15, "micro_batches": 16, "micro_batch_sequences": 8}}),
    ("two expert ranks", 1, 2, {
        "parallelism": {"pipeline": 1, "expert": 2},
        "training": {"steps": 15, "micro_batches": 8, "micro_batch_sequences": 8}}),
    ("pipeline over two nodes", 2, 1, {
        "parallelism": {"pipeline": 2}, "precision": "bf16",
        "training": {"steps": 15, "micro_batches": 8, "micro_batch_sequences": 8}}),
    ("four ranks on two nodes", 2, 2, {
        "parallelism": {"pipeline": 2, "expert": 2},
        "training": {"steps": 15, "micro_batches": 8, "micro_batch_sequences": 8}}),
]


def logged_steps(cluster):
    """Seconds of each step that rank 0 logged."""
    for root, _, files in os.walk(cluster.state):
        if "rank-0.log" in files:
            with open(os.path.join(root, "rank-0.log"), encoding="utf-8") as stream:
                return [float(found.group(1))
                        for found in re.finditer(r"step \d+ .* ([0-9.]+) s \(", stream.read())]
    raise FileNotFoundError(f"no rank has logged under {cluster.state}")


def train(job, profile):
    """Predicted and measured seconds of a step of one of JOBS, with real daemons."""
    _, nodes, ranks, changes = job
    cluster = Cluster(nodes=nodes, ranks_per_node=ranks)
    os.makedirs(cluster.state)
    shutil.copy(profile, os.path.join(cluster.state, "cpu-profile.yaml"))
    with cluster:
        cluster.train("measured", checkpoint={"every_steps": 0}, **changes)
        described = cluster.describe("measured")
        steps = logged_steps(cluster)[SKIPPED_STEPS:]
    expected = described.get("expected") or {}
    return expected.get("step_seconds"), statistics.median(steps), expected.get("note", "")


def daemons(rounds, profile):
    found = [{"name": job[0], "ranks": job[1] * job[2], "rounds_s": []} for job in JOBS]
    for _ in range(rounds):
        for job, row in zip(JOBS, found):
            row["predicted_s"], seconds, row["note"] = train(job, profile)
            row["rounds_s"].append(seconds)
    for row in found:
        row["measured_s"] = statistics.median(row["rounds_s"])
        row["noise"] = (max(row["rounds_s"]) - min(row["rounds_s"])) / row["measured_s"]
        row["error"] = row["predicted_s"] / row["measured_s"] - 1 if row["predicted_s"] else None
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--out", default="/tmp/fathom-steps")
    options = arguments.parse_args()
    os.makedirs(options.out, exist_ok=True)
    before = os.path.join(options.out, "profile-before.yaml")
    subprocess.run([program("cli/fathomctl"), "profile", "-o", before], check=True)
    threads = subprocess.run([program("tests/bench/calibration/step_bench"), before, options.out,
                              str(options.rounds)], check=False)
    profile = os.path.join(options.out, "profile.yaml")
    rows = daemons(max(1, options.rounds // 2), profile)
    with open(os.path.join(options.out, "daemons.json"), "w", encoding="utf-8") as stream:
        json.dump(rows, stream, indent=1)
    print("\n| job with real daemons | ranks | predicted ms | measured ms | error | noise |\n"
          "|---|--:|--:|--:|--:|--:|")
    for row in rows:
        predicted = f"{1e3 * row['predicted_s']:.1f}" if row["predicted_s"] else row["note"] or "-"
        error = f"{100 * row['error']:+.1f}%" if row["error"] is not None else "-"
        print(f"| {row['name']} | {row['ranks']} | {predicted} | {1e3 * row['measured_s']:.1f} | "
              f"{error} | {100 * row['noise']:.1f}% |")
    sys.exit(threads.returncode)


if __name__ == "__main__":
    main()
