#!/usr/bin/python3
"""Kill a rank, a node daemon or the coordinator: the job ends with the weights of a quiet run."""

import os
import signal
import unittest

from harness import Cluster, wait_until

JOB = {
    "training": {"steps": 40},
    "checkpoint": {"every_steps": 5},
    "parallelism": {"pipeline": 2},
}


class KilledProcessTest(unittest.TestCase):

    def begin(self, cluster, name):
        cluster.ctl("submit", "-f", cluster.job_file(name, **JOB))
        cluster.wait_for_job(name, lambda job: job["step"] >= 8, 60, "has done eight steps")

    def finish(self, cluster, name):
        return cluster.wait_for_job(
            name, lambda job: job["state"] in ("COMPLETED", "FAILED", "CANCELLED"), 120, "ends")

    def test_killed_rank_changes_no_weight(self):
        with Cluster(nodes=2, ranks_per_node=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            self.begin(cluster, "hurt")
            os.kill(cluster.rank_pids()[0], signal.SIGKILL)
            hurt = self.finish(cluster, "hurt")
            self.assertEqual(hurt["state"], "COMPLETED", hurt)
            self.assertGreaterEqual(hurt["epoch"], 2, "the kill came too late to be noticed")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])

    def test_killed_node_is_replaced_by_a_spare(self):
        with Cluster(nodes=2, ranks_per_node=1, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            self.begin(cluster, "hurt")
            nodes = cluster.items("get", "nodes")
            victim = next(node for node in nodes if node["ranks"])
            os.kill(victim["pid"], signal.SIGKILL)
            hurt = self.finish(cluster, "hurt")
            self.assertEqual(hurt["state"], "COMPLETED", hurt)
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            state = {node["name"]: node["state"] for node in cluster.items("get", "nodes")}
            self.assertEqual(state[victim["name"]], "LOST")

    def test_killed_coordinator_forgets_nothing(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            self.begin(cluster, "hurt")
            coordinator = [pid for pid, command in cluster.marked().items()
                           if "fathom-coordinator" in command]
            self.assertEqual(len(coordinator), 1)
            os.kill(coordinator[0], signal.SIGKILL)
            wait_until(lambda: coordinator[0] not in cluster.marked(), 10, "it is dead")
            cluster.up()
            hurt = self.finish(cluster, "hurt")
            self.assertEqual(hurt["state"], "COMPLETED", hurt)
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            self.assertEqual(cluster.job("quiet")["state"], "COMPLETED")


if __name__ == "__main__":
    unittest.main()
