#!/usr/bin/python3
"""A machine is profiled, a job trains on it, and its recorded step is shown by instruction: what
the schedule says, in its order, beside what the planner expects; the same figures are metrics, and
`explain` and `--dry-run` tell them."""

import json
import os
import unittest
import urllib.request
import xml.etree.ElementTree

from harness import NOT_FOUND, REPOSITORY, Cluster, wait_until

JOB = {
    "training": {"steps": 20000, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
}


class TraceTest(unittest.TestCase):

    def test_recorded_step_is_the_schedule_beside_what_was_expected(self):
        cluster = Cluster.unstarted(nodes=2, ranks_per_node=2)
        del cluster.up  # the class's own again
        bring_up = cluster.up

        def profile_and_bring_up():
            os.makedirs(cluster.state, exist_ok=True)
            cluster.ctl("profile", "--precision", "fp32", "--rounds", "1", seconds=400)
            bring_up()

        cluster.up = profile_and_bring_up
        with cluster:
            self.check_dry_run(cluster)
            cluster.begin("toy", 3, **JOB)
            timeline = self.fetch(cluster)
            self.check_timeline(cluster, timeline)
            self.check_files(cluster)
            self.check_metrics(cluster, timeline)
            told = cluster.ctl("explain", "toy").stdout
            self.assertIn("a step is expected to take", told)
            page = cluster.ctl("trace", "toy", "--all").stdout
            self.assertIn("predicted", page.lower())
            cluster.ctl("trace", "toy", "--lane", "7", expect=NOT_FOUND)
            cluster.ctl("cancel", "toy")

    def check_dry_run(self, cluster):
        job = cluster.job_file("dry", **JOB)
        laptop = os.path.join(REPOSITORY, "deploy", "examples", "laptop.yaml")
        plan = json.loads(
            cluster.ctl("plan", "-f", job, "--cluster", laptop, "-o", "json").stdout)
        self.assertGreater(plan["step"]["seconds"], 0)
        self.assertEqual(plan["layout"]["parallelism"]["expert"], 2)
        result = cluster.ctl("submit", "-f", job, "--dry-run", "-o", "json")
        expected = json.loads(result.stdout)["expected"]
        self.assertGreater(expected["step_seconds"], 0)
        self.assertEqual(len(expected["pipeline_ranks"]), 2)

    def fetch(self, cluster):
        """A recorded step, once the coordinator has an expectation to set beside it."""
        def look():
            result = cluster.ctl("trace", "toy", "-o", "json", expect=None)
            timeline = json.loads(result.stdout) if result.returncode == 0 else {}
            return timeline if timeline.get("report") else None

        return wait_until(look, 60, "a step is recorded and expected",
                          lambda: cluster.ctl("trace", "toy", expect=None).stderr)

    def check_timeline(self, cluster, timeline):
        schedule = json.loads(cluster.ctl(
            "schedule", "--kind", "dualpipe", "--ranks", "2", "--micro-batches", "8", "-o",
            "json").stdout)
        self.assertEqual([rank["pipeline_rank"] if "pipeline_rank" in rank else 0
                          for rank in timeline["ranks"]], [0, 1])
        for rank, listed in zip(timeline["ranks"], schedule["ranks"]):
            run = [timed["what"] for timed in rank["instructions"] if timed["what"][0] in "FBW"]
            # A deferred weight gradient says whose it is where it ran.
            self.assertEqual([what if what[0] != "W" else "W" for what in run],
                             [what if what[0] != "W" else "W" for what in listed])
            parts = [timed["what"] for timed in rank["instructions"]]
            for part in ("read samples", "reduce gradients", "optimizer"):
                self.assertIn(part, parts)
            end = 0
            for timed in rank["instructions"]:
                self.assertGreaterEqual(timed.get("start_s", 0), end - 1e-9)
                self.assertGreaterEqual(timed["end_s"], timed.get("start_s", 0))
                self.assertLessEqual(timed.get("wait_s", 0),
                                     timed["end_s"] - timed.get("start_s", 0) + 1e-6)
                end = timed["end_s"]
            self.assertLessEqual(end, timeline["seconds"] + 1e-9)

    def check_files(self, cluster):
        cluster.ctl("trace", "toy", "--svg", "step.svg", "--trace", "step.json")
        picture = xml.etree.ElementTree.parse(os.path.join(cluster.folder, "step.svg")).getroot()
        self.assertTrue(picture.tag.endswith("svg"))
        with open(os.path.join(cluster.folder, "step.json"), encoding="utf-8") as stream:
            events = json.load(stream)["traceEvents"]
        self.assertTrue(any(event["ph"] == "X" and event["name"].startswith("F")
                            for event in events))

    def check_metrics(self, cluster, timeline):
        address = cluster.coordinator()["metrics_address"]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        job = timeline["job"]
        expected = float(values[f'fathom_job_expected_step_seconds{{job="{job}"}}'])
        self.assertAlmostEqual(expected, timeline["report"]["step"]["predicted_s"], places=9)
        for rank in ("0", "1"):
            labels = f'job="{job}",part="busy",pipeline_rank="{rank}"'
            busy = values["fathom_stage_expected_seconds{" + labels + "}"]
            self.assertGreater(float(busy), 0)


if __name__ == "__main__":
    unittest.main()
