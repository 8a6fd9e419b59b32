#!/usr/bin/python3
"""Ranks, nodes and spares die in mid-run; without a single checkpoint on disk the job ends with the
weights of a quiet run, and those that live keep their processes."""

import os
import random
import signal
import unittest

from harness import Cluster, ended, wait_until

JOB = {
    "training": {"steps": 100, "micro_batches": 8},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
}
PHASES = ("detect", "decide", "fence", "rejoin", "load", "first_step")


class RecoveryTest(unittest.TestCase):

    def check_story(self, cluster, name, causes):
        """What `describe job` tells of the job's epochs."""
        story = cluster.recoveries(name)
        self.assertEqual([recovery["cause"] for recovery in story], causes, story)
        for recovery in story:
            self.assertLessEqual(recovery["steps_redone"], 1, recovery)
            self.assertEqual(recovery["source"], "memory", recovery)
            for phase in PHASES:
                self.assertGreaterEqual(recovery[phase], 0, (phase, recovery))
        epochs = [recovery["epoch"] for recovery in story]
        self.assertEqual(epochs, sorted(set(epochs)))
        return story

    def test_killed_rank_leaves_the_others_their_processes(self):
        with Cluster(nodes=2, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 10, **JOB)
            before = set(cluster.rank_pids())
            victim = sorted(before)[1]
            os.kill(victim, signal.SIGKILL)
            cluster.wait_for_job("hurt", lambda job: job["epoch"] == 2 and
                                 job["state"] == "RUNNING" or ended(job), 60, "goes on")
            after = set(cluster.rank_pids())
            self.assertEqual(before - after, {victim})
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            self.check_story(cluster, "hurt", ["rank_failed"])

    def test_killed_node_is_replaced_by_the_spare(self):
        with Cluster(nodes=2, ranks_per_node=2, spares=1) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 10, **JOB)
            victim, other = [node["name"] for node in cluster.busy_nodes()]
            survivors = {rank["pid"] for rank in cluster.node(other)["ranks"]}
            cluster.kill_daemon(victim)
            cluster.wait_for_job("hurt", lambda job: job["epoch"] == 2 and
                                 job["state"] == "RUNNING" or ended(job), 60, "goes on")
            self.assertLessEqual(survivors, set(cluster.rank_pids()))
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            story = self.check_story(cluster, "hurt", ["node_lost"])
            self.assertEqual(story[0]["node"], victim)

    def test_stopped_node_is_given_up_and_disturbs_nobody_when_it_goes_on(self):
        with Cluster(nodes=2, ranks_per_node=2, spares=1) as cluster:
            job = dict(JOB, training={"steps": 150, "micro_batches": 8})
            quiet = cluster.train("quiet", **job)
            cluster.begin("hurt", 10, **job)
            victim = cluster.busy_nodes()[1]
            pids = [cluster.daemon_pid(victim["name"])]
            pids += [rank["pid"] for rank in victim["ranks"]]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            try:
                cluster.wait_for_job("hurt", lambda job: job["epoch"] >= 2 and
                                     job["state"] == "RUNNING" or ended(job), 60, "goes on")
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            wait_until(lambda: cluster.node(victim["name"])["state"] == "READY", 30, "is back")
            wait_until(lambda: not cluster.rank_pids(), 30, "its ranks of old are gone")

    def test_ten_random_kills_change_no_weight(self):
        seed = random.SystemRandom().randrange(1 << 30)
        print(f"seed {seed}", flush=True)
        choose = random.Random(seed)
        with Cluster(nodes=2, ranks_per_node=2, spares=1) as cluster:
            # Steps long enough that a daemon is back before the next kill is due.
            job = dict(JOB, training={"steps": 100, "micro_batches": 16,
                                      "micro_batch_sequences": 16})
            quiet = cluster.train("quiet", **job)
            cluster.ctl("submit", "-f", cluster.job_file("hurt", **job))
            kills = 0
            for step in sorted(choose.sample(range(1, 95), 10)):
                job = cluster.wait_for_job(
                    "hurt", lambda job, at=step: job["step"] >= at or ended(job), 120,
                    f"is at step {step}")
                self.assertFalse(ended(job) and job["state"] != "COMPLETED", job)
                if ended(job):
                    break
                kind = choose.choice(["rank", "node", "spare", "coordinator"])
                print(f"step {job['step']}: kill a {kind}", flush=True)
                if kind == "rank":
                    ranks = sorted(cluster.rank_pids())
                    if ranks:
                        os.kill(choose.choice(ranks), signal.SIGKILL)
                elif kind == "node":
                    cluster.kill_daemon(f"node-{choose.randrange(2)}")
                elif kind == "spare":
                    cluster.kill_daemon("spare-0")
                else:
                    cluster.kill_daemon("coordinator")
                kills += 1
                cluster.up()
            self.assertEqual(kills, 10, "the job was over before it could be hurt so often")
            hurt = cluster.finish("hurt")
            self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])


if __name__ == "__main__":
    unittest.main()
