#!/usr/bin/python3
"""A rank that neither dies nor answers: it is found, named with what every rank was at, and
replaced; in the mode `observe` it is named and left alone."""

import os
import signal
import unittest

from harness import Cluster, ended

JOB = {
    "training": {"steps": 80, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2},
}


class HangTest(unittest.TestCase):

    def stop_a_rank(self, cluster):
        cluster.begin("hurt", 20, **JOB)
        victim = next(rank for node in cluster.busy_nodes() for rank in node["ranks"]
                      if rank["rank"] == 1)
        os.kill(victim["pid"], signal.SIGSTOP)
        return victim["pid"]

    def named(self, cluster):
        return cluster.wait_for_job(
            "hurt", lambda job: ended(job) or cluster.describe("hurt").get("diagnoses"), 60,
            "says what its ranks are at")

    def test_stopped_rank_is_replaced(self):
        with Cluster(nodes=2, ranks_per_node=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            self.stop_a_rank(cluster)
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            story = cluster.recoveries("hurt")
            self.assertEqual([recovery["cause"] for recovery in story], ["hang"], story)
            self.assertLessEqual(story[0]["steps_redone"], 1)
            told = cluster.ctl("describe", "job", "hurt").stdout
            self.assertRegex(told, r"stopped")

    def test_observed_hang_is_named_and_left_alone(self):
        settings = "detectors: {hang: observe}\n"
        cluster = Cluster.unstarted(nodes=2, ranks_per_node=1)
        path = os.path.join(cluster.folder, "coordinator.yaml")
        with open(path, "w", encoding="ascii") as stream:
            stream.write(settings)
        del cluster.up  # the class's own again
        bring_up = cluster.up
        cluster.up = lambda: bring_up("--coordinator-config", path)
        with cluster:
            quiet = cluster.train("quiet", **JOB)
            pid = self.stop_a_rank(cluster)
            self.named(cluster)
            self.assertEqual(cluster.job("hurt")["epoch"], 1)
            os.kill(pid, signal.SIGCONT)
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            self.assertEqual(cluster.recoveries("hurt"), [])


if __name__ == "__main__":
    unittest.main()
