#!/usr/bin/python3
"""A job that begins from a checkpoint ends with the weights of the run it was taken from."""

import glob
import os
import unittest

from harness import Cluster


def manifests(folder):
    return sorted(glob.glob(os.path.join(folder, "**", "*manifest*.json"), recursive=True))


class ResumedJobTest(unittest.TestCase):

    def test_resumed_job_ends_with_the_same_weights(self):
        with Cluster(nodes=2, ranks_per_node=2) as cluster:
            saved = os.path.join(cluster.folder, "saved")
            whole = cluster.train("whole", training={"steps": 8},
                                  parallelism={"pipeline": 2, "expert": 2},
                                  checkpoint={"directory": saved, "every_steps": 4, "keep": 5})
            found = manifests(saved)
            self.assertEqual(len(found), 2, f"one after step 4, one after step 8: {found}")
            for manifest in found:
                cluster.ctl("checkpoint", "verify", manifest)

            resumed = cluster.train("resumed", training={"steps": 8},
                                    parallelism={"pipeline": 2, "expert": 2},
                                    checkpoint={"resume_from": found[0]})
            self.assertEqual(resumed["weights_sha256"], whole["weights_sha256"])

            # Another layout sums in another order: the run goes on, its bits are its own.
            other = cluster.train("other", training={"steps": 8},
                                  parallelism={"pipeline": 1, "replicas": 2},
                                  checkpoint={"resume_from": found[0]})
            self.assertEqual(other["step"], 8)
            self.assertAlmostEqual(other["loss"], whole["loss"], delta=0.5)

    def test_kept_checkpoints_are_the_newest(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            saved = os.path.join(cluster.folder, "saved")
            cluster.train(training={"steps": 10},
                          checkpoint={"directory": saved, "every_steps": 2, "keep": 2})
            self.assertEqual(len(manifests(saved)), 2)


if __name__ == "__main__":
    unittest.main()
