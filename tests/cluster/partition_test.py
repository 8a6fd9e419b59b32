#!/usr/bin/python3
"""Links between machines fail, in both directions or one: the job goes on elsewhere with the
weights of a quiet run, and what was cut off can't write into it when it is back."""

import unittest

from harness import ended, wait_until
from namespaces import NamespaceCluster, enter

JOB = {
    "training": {"steps": 120, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
    "restart": {"peer_timeout_s": 10},
}


class PartitionTest(unittest.TestCase):

    def goes_on(self, cluster, epoch):
        return cluster.wait_for_job(
            "hurt", lambda job: job["epoch"] >= epoch and job["state"] == "RUNNING" or ended(job),
            90, f"goes on in epoch {epoch}")

    def test_node_cut_off_from_all_is_replaced(self):
        with NamespaceCluster(nodes=3, ranks_per_node=2, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 10, **JOB)
            victim = cluster.busy_nodes()[-1]["name"]
            cluster.cut(victim)
            self.goes_on(cluster, 2)
            cluster.mend(victim)
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            wait_until(lambda: cluster.node(victim)["state"] == "READY", 60, f"{victim} is back")
            wait_until(lambda: not cluster.rank_pids(), 30, "no rank of an old epoch is left")

    def test_link_between_two_nodes_that_both_report_is_worked_around(self):
        with NamespaceCluster(nodes=3, ranks_per_node=2, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 10, **JOB)
            first, second = [node["name"] for node in cluster.busy_nodes()]
            cluster.mute(first, second)
            self.goes_on(cluster, 2)
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            cluster.unmute(first, second)

    def test_node_that_can_not_hear_the_coordinator_keeps_training(self):
        with NamespaceCluster(nodes=3, ranks_per_node=2, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 10, **JOB)
            # Too short for the lease: nothing may happen.
            victim = cluster.busy_nodes()[0]["name"]
            seen = cluster.job("hurt")["step"]
            cluster.mute(victim, "coordinator")
            cluster.wait_for_job("hurt", lambda job: job["step"] > seen or ended(job), 30,
                                 "trains on")
            cluster.unmute(victim, "coordinator")
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])


if __name__ == "__main__":
    enter()
    unittest.main()
