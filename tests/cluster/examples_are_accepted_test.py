#!/usr/bin/python3
"""Every job file under deploy/examples says something that can be run, and toy.yaml runs; every
cluster file can be planned on, and the published job on the published cluster comes near the
published figures."""

import glob
import json
import os
import time
import unittest

from harness import OK, REFUSED, REPOSITORY, Cluster

EXAMPLES = os.path.join(REPOSITORY, "deploy", "examples")


def examples(kind):
    """Paths of the example files of a kind, "Job" or "Cluster"."""
    found = []
    for path in sorted(glob.glob(os.path.join(EXAMPLES, "*.yaml"))):
        with open(path, encoding="utf-8") as stream:
            if f"kind: {kind}" in stream.read().splitlines():
                found.append(path)
    return found


class ExamplesTest(unittest.TestCase):

    def test_every_example_is_planned(self):
        with Cluster(nodes=4, ranks_per_node=2) as cluster:
            files = examples("Job")
            self.assertGreaterEqual(len(files), 3)
            for file in files:
                with self.subTest(example=os.path.basename(file)):
                    result = cluster.ctl(
                        "submit", "-f", file, "--dry-run", "-o", "json", "--set",
                        f"spec.data.token_file={cluster.token_file()}")
                    answer = json.loads(result.stdout)
                    if "deepseek" in file:
                        self.assertIn("2048", answer["note"], "it says how many ranks it waits for")
                    else:
                        self.assertTrue(answer["plan"]["ranks"])
            self.assertEqual(cluster.items("get", "jobs"), [])

    def test_every_cluster_can_be_planned_on(self):
        cluster = Cluster.unstarted()
        with cluster:
            job = os.path.join(EXAMPLES, "deepseek-v3.yaml")
            files = examples("Cluster")
            self.assertGreaterEqual(len(files), 6)
            for file in files:
                with self.subTest(example=os.path.basename(file)):
                    result = cluster.ctl("plan", "-f", job, "--cluster", file, "-o", "json",
                                         expect=None)
                    self.assertIn(result.returncode, (OK, REFUSED), result.stderr)
                    if result.returncode == REFUSED:
                        self.assertRegex(result.stderr, "nearest that would do|fathomctl profile")
                    if "h800-256" in file:
                        self.check_published(json.loads(result.stdout))

    def check_published(self, plan):
        """arXiv 2412.19437: 671B parameters, 180K GPU-hours per trillion tokens, 2,048 devices."""
        self.assertEqual(plan["parameters"]["total"], 671026419200)
        self.assertAlmostEqual(plan["gpu_hours_per_trillion_tokens"], 180e3, delta=18e3)
        self.assertEqual(plan["devices"], 2048)
        self.assertLessEqual(plan["memory"]["peak_bytes"], plan["memory"]["capacity_bytes"])
        self.assertAlmostEqual(sum(plan["step"]["breakdown"].values()), plan["step"]["seconds"],
                               places=6)

    def test_toy_trains_a_hundred_steps_within_a_minute(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            began = time.monotonic()
            cluster.ctl("submit", "-f", os.path.join(EXAMPLES, "toy.yaml"), "--set",
                        f"spec.data.token_file={cluster.token_file()}", "--wait", seconds=60)
            self.assertLess(time.monotonic() - began, 60)
            job = cluster.job("toy")
            self.assertEqual((job["state"], job["step"]), ("COMPLETED", 100))
            self.assertLess(job["validation_loss"], 4)


if __name__ == "__main__":
    unittest.main()
