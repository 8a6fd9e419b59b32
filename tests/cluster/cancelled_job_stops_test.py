#!/usr/bin/python3
"""A cancelled job ends at once, gives its ranks back, and stays cancelled."""

import unittest

from harness import NOT_FOUND, OK, REFUSED, TIMED_OUT, Cluster, wait_until

ENDLESS = {"steps": 1000000}


class CancelledJobTest(unittest.TestCase):

    def test_cancelled_job_gives_its_ranks_back(self):
        with Cluster(nodes=2, ranks_per_node=1) as cluster:
            cluster.ctl("submit", "-f", cluster.job_file("endless", training=ENDLESS))
            cluster.wait_for_job("endless", lambda job: job["step"] >= 2, 60, "has done two steps")
            self.assertEqual(len(cluster.rank_pids()), 2)

            # It can be waited for so long and no longer, and has its name to itself.
            cluster.ctl("wait", "endless", "--timeout", "1", expect=TIMED_OUT)
            cluster.ctl("submit", "-f", cluster.job_file("endless"), expect=REFUSED)
            cluster.ctl("cancel", "endless")
            job = cluster.wait_for_job("endless", lambda job: job["state"] == "CANCELLED", 20,
                                       "is cancelled")
            self.assertTrue(job["reason"])
            wait_until(lambda: not cluster.rank_pids(), 20, "its rank processes are gone")

            self.assertNotEqual(cluster.ctl("wait", "endless", expect=None).returncode, OK)
            cluster.ctl("cancel", "endless", expect=REFUSED)
            cluster.ctl("cancel", "nobody", expect=NOT_FOUND)
            # The devices are free for the next one.
            cluster.train("next")

    def test_cancelled_queued_job_never_starts(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            cluster.ctl("submit", "-f", cluster.job_file("endless", training=ENDLESS))
            cluster.ctl("submit", "-f", cluster.job_file("queued"))
            self.assertEqual(cluster.job("queued")["state"], "PENDING")
            self.assertTrue(cluster.job("queued")["reason"], "a pending job says what it waits for")
            cluster.ctl("cancel", "queued")
            self.assertEqual(cluster.job("queued")["state"], "CANCELLED")
            self.assertEqual(cluster.job("queued")["epoch"], 0)
            cluster.ctl("cancel", "endless")


if __name__ == "__main__":
    unittest.main()
