#!/usr/bin/python3
"""Every job file under deploy/examples says something that can be run, and toy.yaml runs."""

import glob
import json
import os
import time
import unittest

from harness import REPOSITORY, Cluster

EXAMPLES = os.path.join(REPOSITORY, "deploy", "examples")


class ExamplesTest(unittest.TestCase):

    def test_every_example_is_planned(self):
        with Cluster(nodes=4, ranks_per_node=2) as cluster:
            files = sorted(glob.glob(os.path.join(EXAMPLES, "*.yaml")))
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
