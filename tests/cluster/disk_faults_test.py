#!/usr/bin/python3
"""Disks fill up, bytes of checkpoints rot, the coordinator dies inside a transaction: nothing that
was acknowledged is lost, and nothing rotten is trained on."""

import os
import random
import re
import signal
import subprocess
import unittest

from harness import Cluster, ended, wait_until

JOB = {
    "training": {"steps": 60, "micro_batches": 8},
    "checkpoint": {"every_steps": 10, "keep": 3},
    "parallelism": {"pipeline": 2},
}


class RottenCheckpointTest(unittest.TestCase):

    def all_ranks_die_over(self, damage):
        """The job loses every process, so only the disk is left, and `damage` was at it."""
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("hurt", 25, **JOB)
            # What is damaged must be what the job would go on from.
            folder = os.path.join(cluster.state, "coordinator", "checkpoints",
                                  cluster.job("hurt")["id"])
            os.kill(cluster.daemon_pid("node-0"), signal.SIGSTOP)
            for pid in cluster.rank_pids():
                os.kill(pid, signal.SIGKILL)
            steps = sorted(name for name in os.listdir(folder)
                           if os.path.exists(os.path.join(folder, name, "manifest.json")))
            self.assertTrue(steps)
            damage(os.path.join(folder, steps[-1], "rank-00001.safetensors"))
            os.kill(cluster.daemon_pid("node-0"), signal.SIGCONT)
            hurt = cluster.wait_for_job("hurt", ended, 120, "ends")
            if hurt["state"] == "COMPLETED":  # from an older checkpoint that is whole
                self.assertEqual(hurt["weights_sha256"], quiet["weights_sha256"])
            else:
                self.assertEqual(hurt["state"], "FAILED")
                self.assertRegex(hurt["reason"], r"rank-00001.safetensors")

    def test_flipped_byte_is_never_trained_on(self):
        def flip(path):
            with open(path, "r+b") as stream:
                stream.seek(os.path.getsize(path) * 2 // 3)
                byte = stream.read(1)
                stream.seek(-1, os.SEEK_CUR)
                stream.write(bytes([byte[0] ^ 1]))
        self.all_ranks_die_over(flip)

    def test_truncated_shard_is_never_trained_on(self):
        self.all_ranks_die_over(lambda path: os.truncate(path, os.path.getsize(path) // 2))


class CoordinatorKilledInTransactionTest(unittest.TestCase):
    """The kernel kills it at a chosen call to fdatasync, which is where SQLite makes a transaction
    durable: before, within and after it, in turn."""

    def kill_at(self, cluster, count):
        pid = cluster.daemon_pid("coordinator")
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-e", "trace=fdatasync,fsync,pwrite64",
             "-e", f"inject=fdatasync,fsync,pwrite64:signal=SIGKILL:when={count}", "-p", str(pid),
             "-o", os.path.join(cluster.folder, "strace.log")], stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True)

        def attached():
            if tracer.poll() is not None and "not permitted" in tracer.stderr.read():
                self.skipTest("this machine lets no process trace another")
            try:
                with open(f"/proc/{pid}/status", encoding="ascii") as stream:
                    return re.search(r"TracerPid:\t[1-9]", stream.read())
            except FileNotFoundError:
                return True  # and killed already

        wait_until(attached, 20, "the tracer is attached")
        return pid, tracer

    def test_acknowledged_jobs_survive(self):
        choose = random.Random(7)
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            acknowledged = []
            short = dict(JOB, training={"steps": 2, "micro_batches": 4})
            for round_number in range(5):
                pid, tracer = self.kill_at(cluster, choose.randrange(1, 25))
                for number in range(40):
                    name = f"job-{round_number}-{number}"
                    result = cluster.ctl("submit", "-f", cluster.job_file(name, **short),
                                         expect=None)
                    if result.returncode == 0:
                        acknowledged.append(name)
                    if pid not in cluster.marked():
                        break
                tracer.wait(30)
                tracer.stderr.close()
                self.assertNotIn(pid, cluster.marked(), "it was to be killed")
                cluster.up()
                known = [job["name"] for job in cluster.items("get", "jobs")]
                for name in acknowledged:
                    self.assertIn(name, known)
                self.assertEqual(len(known), len(set(known)))
            wait_until(lambda: all(ended(job) for job in cluster.items("get", "jobs")), 240,
                       "all end", lambda: cluster.ctl("get", "jobs").stdout[-3000:])
            self.assertEqual({job["state"] for job in cluster.items("get", "jobs")}, {"COMPLETED"})


if __name__ == "__main__":
    unittest.main()
