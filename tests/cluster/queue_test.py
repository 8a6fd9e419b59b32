#!/usr/bin/python3
"""Jobs that wait, give way, are suspended and resumed: they end with the weights of a quiet run."""

import unittest

from harness import Cluster, REFUSED, ended

JOB = {
    "training": {"steps": 80, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2},
}


class QueueTest(unittest.TestCase):

    def test_suspended_job_gives_its_devices_back_and_goes_on_later(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("paused", 10, **JOB)
            cluster.ctl("suspend", "paused", "--reason", "lunch")
            cluster.wait_for_job("paused", lambda job: job["state"] == "SUSPENDED" or ended(job),
                                 60, "is suspended")
            self.assertEqual(cluster.rank_pids(), [])
            self.assertIn("lunch", cluster.ctl("explain", "paused").stdout)
            cluster.ctl("suspend", "paused", expect=REFUSED)
            cluster.train("between", **dict(JOB, training={"steps": 3, "micro_batches": 8}))
            cluster.ctl("resume", "paused")
            paused = cluster.finish("paused")
            self.assertEqual(paused["weights_sha256"], quiet["weights_sha256"])

    def test_higher_priority_waits_for_nobody_once_the_other_may_be_parked(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            kept = dict(JOB, scheduling={"preemptible": False})
            cluster.begin("first", 5, **kept)
            urgent = dict(JOB, training={"steps": 5, "micro_batches": 8},
                          scheduling={"priority": 10})
            cluster.ctl("submit", "-f", cluster.job_file("urgent", **urgent))
            cluster.ctl("submit", "-f", cluster.job_file("later", **JOB))
            told = cluster.ctl("explain", "later").stdout
            self.assertIn("urgent", told, "explains what comes first")
            first = cluster.finish("first")
            self.assertEqual(first["weights_sha256"], quiet["weights_sha256"])
            urgent, later = cluster.finish("urgent"), cluster.finish("later")
            self.assertLessEqual(urgent["finished"], later["started"])


if __name__ == "__main__":
    unittest.main()
