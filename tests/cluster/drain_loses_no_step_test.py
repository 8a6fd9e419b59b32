#!/usr/bin/python3
"""A node is drained, replaced, or asked to leave when nothing can take its place: no step is
lost or redone, and what happens is explained."""

import unittest

from harness import Cluster, NOT_FOUND, REFUSED, USAGE, ended, wait_until

JOB = {
    "training": {"steps": 120, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
}


class DrainTest(unittest.TestCase):

    def wait_for_epoch(self, cluster, name, epoch):
        return cluster.wait_for_job(
            name, lambda job: job["epoch"] >= epoch and job["state"] == "RUNNING" or ended(job), 60,
            f"is in epoch {epoch}")

    def check_planned(self, cluster, name, cause, node):
        story = cluster.recoveries(name)
        self.assertEqual([recovery["cause"] for recovery in story], [cause], story)
        self.assertEqual(story[0]["node"], node)
        self.assertTrue(story[0]["planned"])
        self.assertEqual(story[0]["steps_redone"], 0)

    def test_drained_node_leaves_at_a_step_boundary(self):
        with Cluster(nodes=2, ranks_per_node=2, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("moved", 10, **JOB)
            victim = cluster.busy_nodes()[0]["name"]
            told = cluster.ctl("drain", victim, "--reason", "fan is loud", "--dry-run").stdout
            self.assertIn("spare-0", told)
            self.assertEqual(cluster.job("moved")["epoch"], 1)
            cluster.ctl("drain", victim, "--reason", "fan is loud")
            self.wait_for_epoch(cluster, "moved", 2)
            self.assertEqual(cluster.node(victim)["ranks"], [])
            shown = cluster.ctl("describe", "node", victim).stdout
            self.assertIn("fan is loud", shown)
            moved = cluster.finish("moved")
            self.assertEqual(moved["weights_sha256"], quiet["weights_sha256"])
            self.check_planned(cluster, "moved", "drain", victim)
            cluster.ctl("undrain", victim)
            self.assertEqual(cluster.node(victim)["schedulability"], "READY")

    def test_job_that_moves_whole_takes_its_state_along(self):
        """No rank and no buddy stays: what the memory can't carry over goes by the disk."""
        with Cluster(nodes=2, ranks_per_node=2) as cluster:
            job = dict(JOB, parallelism={"pipeline": 2})
            quiet = cluster.train("quiet", **job)
            cluster.ctl("cordon", "node-1", "--reason", "all on one")
            cluster.begin("moved", 10, **job)
            cluster.ctl("uncordon", "node-1")
            victim, = [node["name"] for node in cluster.busy_nodes()]
            cluster.ctl("drain", victim, "--reason", "all of it")
            self.wait_for_epoch(cluster, "moved", 2)
            self.assertEqual(cluster.node(victim)["ranks"], [])
            moved = cluster.finish("moved")
            self.assertEqual(moved["weights_sha256"], quiet["weights_sha256"])
            self.check_planned(cluster, "moved", "drain", victim)

    def test_named_replacement_takes_the_ranks(self):
        with Cluster(nodes=3, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("moved", 10, **JOB)
            busy = [node["name"] for node in cluster.busy_nodes()]
            free = next(name for name in ("node-0", "node-1", "node-2") if name not in busy)
            cluster.ctl("replace", busy[1], "--with", free, "--reason", "new board")
            self.wait_for_epoch(cluster, "moved", 2)
            self.assertEqual(sorted(node["name"] for node in cluster.busy_nodes()),
                             sorted([busy[0], free]))
            moved = cluster.finish("moved")
            self.assertEqual(moved["weights_sha256"], quiet["weights_sha256"])
            self.check_planned(cluster, "moved", "replace", busy[1])

    def test_drain_without_a_place_to_go_waits_and_says_so(self):
        with Cluster(nodes=2, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("stuck", 10, **JOB)
            cluster.ctl("drain", "node-0", "--reason", "last one")
            told = cluster.ctl("explain", "stuck").stdout
            self.assertRegex(told, r"node-0")
            stuck = cluster.finish("stuck")  # it trains on meanwhile
            self.assertEqual(stuck["weights_sha256"], quiet["weights_sha256"])
            self.assertEqual(cluster.recoveries("stuck"), [])
            # And nothing new goes there.
            cluster.ctl("submit", "-f", cluster.job_file("later", **JOB))
            told = wait_until(lambda: cluster.ctl("explain", "later").stdout, 10, "is explained")
            self.assertRegex(told, r"node-0|drain")
            self.assertEqual(cluster.job("later")["state"], "PENDING")
            cluster.ctl("undrain", "node-0")
            cluster.finish("later")

    def test_drain_past_its_deadline_gives_the_ranks_up(self):
        with Cluster(nodes=2, ranks_per_node=2) as cluster:
            job = dict(JOB, training={"steps": 400, "micro_batches": 8})
            cluster.begin("late", 10, **job)
            cluster.ctl("drain", "node-1", "--reason", "power goes", "--deadline", "1s")
            cluster.wait_for_job("late", lambda job: job["state"] == "RECOVERING" or ended(job), 60,
                                 "waits")
            self.assertRegex(cluster.ctl("explain", "late").stdout, r"device|node")
            cluster.ctl("undrain", "node-1")
            cluster.finish("late")

    def test_what_makes_no_sense_is_refused(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            cluster.ctl("drain", "nowhere", "--reason", "x", expect=NOT_FOUND)
            cluster.ctl("drain", "node-0", expect=USAGE)
            cluster.ctl("undrain", "node-0", expect=REFUSED)
            cluster.ctl("replace", "node-0", "--with", "nowhere", "--reason", "x", expect=REFUSED)
            cluster.ctl("cordon", "node-0", "--reason", "look first")
            self.assertIn("look first", cluster.ctl("describe", "node", "node-0").stdout)
            cluster.ctl("uncordon", "node-0")


if __name__ == "__main__":
    unittest.main()
