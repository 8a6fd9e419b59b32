#!/usr/bin/python3
"""A submitted job runs to its last step and says so, at every precision and shape of pipeline."""

import math
import unittest

from harness import Cluster

UNIFORM_LOSS = math.log(264)  # of a model that knows nothing, over the toy's vocabulary


class JobCompletesTest(unittest.TestCase):

    def check(self, cluster, name="toy", steps=6, **changes):
        result = cluster.ctl("submit", "-f", cluster.job_file(name, **changes), "--wait",
                             seconds=180)
        self.assertIn(name, result.stdout)
        job = cluster.job(name)
        self.assertEqual(job["state"], "COMPLETED", job)
        self.assertEqual(job["step"], steps)
        self.assertEqual(job["epoch"], 1)
        self.assertLess(job["loss"], UNIFORM_LOSS + 0.2)
        self.assertGreater(job["loss"], 0)
        self.assertRegex(job["weights_sha256"], "^[0-9a-f]{64}$")
        return job

    def test_one_node_completes_every_job_it_is_given(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            self.check(cluster, "plain")
            learned = self.check(cluster, "longer", steps=60, training={
                "steps": 60, "validation_every": 20})
            self.assertLess(learned["loss"], UNIFORM_LOSS - 1.5, "sixty steps taught nothing")
            self.check(cluster, "single", parallelism={"pipeline": 1})
            self.check(cluster, "replicas", parallelism={"pipeline": 1, "replicas": 2})
            self.assertEqual(len(cluster.items("get", "jobs")), 4)
            self.assertEqual(cluster.rank_pids(), [])

    def test_several_nodes_complete_every_precision(self):
        with Cluster(nodes=4, ranks_per_node=1) as cluster:
            nodes = cluster.items("get", "nodes")
            self.assertEqual(len(nodes), 4)
            self.assertEqual(len({node["pid"] for node in nodes}), 4)
            weights = set()
            for precision in ("fp32", "bf16", "fp8"):
                job = self.check(cluster, precision, precision=precision,
                                 parallelism={"pipeline": 2, "expert": 2})
                weights.add(job["weights_sha256"])
            self.assertEqual(len(weights), 3, "precisions that make no difference")
            self.check(cluster, "deep", parallelism={"pipeline": 4},
                       training={"micro_batches": 8})

    def test_queued_job_starts_when_the_first_is_done(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            cluster.ctl("submit", "-f", cluster.job_file("first", training={"steps": 30}))
            cluster.ctl("submit", "-f", cluster.job_file("second"))
            cluster.ctl("wait", "second", seconds=120)
            first, second = cluster.job("first"), cluster.job("second")
            self.assertEqual((first["state"], second["state"]), ("COMPLETED", "COMPLETED"))


if __name__ == "__main__":
    unittest.main()
