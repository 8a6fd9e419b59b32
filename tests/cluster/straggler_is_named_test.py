#!/usr/bin/python3
"""A rank that is stopped and let go on again and again, so that it works at a fraction of its
speed, is named with its node; where the coordinator may act, its node is replaced at a step
boundary."""

import os
import signal
import threading
import unittest

from harness import Cluster, ended

# A rank's own work in a step takes longer than the brake ever lets it run at once, so that every
# step of the slow one shows it.
JOB = {
    "training": {"steps": 200, "micro_batches": 24, "micro_batch_sequences": 4},
    "checkpoint": {"every_steps": 0},
    "parallelism": {"pipeline": 2, "expert": 2},
}


class Brake:
    """Lets a process run for a quarter of the time."""

    def __init__(self, pid):
        self._pid = pid
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._hold)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._released.set()
        self._thread.join()

    def _hold(self):
        try:
            while not self._released.is_set():
                os.kill(self._pid, signal.SIGSTOP)
                self._released.wait(0.09)
                os.kill(self._pid, signal.SIGCONT)
                self._released.wait(0.03)
        except ProcessLookupError:
            pass  # replaced


class StragglerTest(unittest.TestCase):

    def test_slow_node_is_named_and_replaced(self):
        cluster = Cluster.unstarted(nodes=2, ranks_per_node=2, spares=1)
        path = os.path.join(cluster.folder, "coordinator.yaml")
        with open(path, "w", encoding="ascii") as stream:
            stream.write("detectors: {straggler: act}\n")
        del cluster.up  # the class's own again
        bring_up = cluster.up
        cluster.up = lambda: bring_up("--coordinator-config", path)
        with cluster:
            quiet = cluster.train("quiet", **JOB)
            cluster.begin("slow", 10, **JOB)
            victim = cluster.busy_nodes()[0]
            with Brake(victim["ranks"][0]["pid"]):
                cluster.wait_for_job("slow", lambda job: job["epoch"] >= 2 or ended(job), 60,
                                     "moves off the slow node")
            slow = cluster.finish("slow")
            self.assertEqual(slow["weights_sha256"], quiet["weights_sha256"])
            story = cluster.recoveries("slow")
            self.assertEqual([(entry["cause"], entry["node"]) for entry in story],
                             [("straggler", victim["name"])], story)
            self.assertEqual(story[0]["steps_redone"], 0)
            events = [event for event in cluster.items("get", "events")
                      if "straggler" in event["message"].lower()
                      or "straggler" in event["kind"].lower()]
            self.assertTrue(events)
            self.assertIn(victim["name"], str(events))


if __name__ == "__main__":
    unittest.main()
