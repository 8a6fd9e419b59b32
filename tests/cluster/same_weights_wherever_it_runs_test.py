#!/usr/bin/python3
"""A job gives the same bits twice, however its nodes are spread over shared memory and TCP."""

import unittest

from harness import Cluster


class SameWeightsTest(unittest.TestCase):

    def test_spread_over_nodes_changes_no_bit(self):
        weights = {}
        for nodes, ranks_per_node in ((1, 4), (2, 2), (4, 1)):
            with Cluster(nodes, ranks_per_node) as cluster:
                for precision in ("fp32", "fp8"):
                    job = cluster.train(precision, precision=precision,
                                        parallelism={"pipeline": 2, "expert": 2})
                    weights.setdefault(precision, {})[nodes, ranks_per_node] = job["weights_sha256"]
        for precision, by_shape in weights.items():
            self.assertEqual(len(set(by_shape.values())), 1, f"{precision}: {by_shape}")

    def test_second_run_gives_the_same_bits_and_another_seed_does_not(self):
        with Cluster(nodes=1, ranks_per_node=2) as cluster:
            first = cluster.train("first")
            second = cluster.train("second")
            other = cluster.train("other", training={"seed": 2})
            self.assertEqual(first["weights_sha256"], second["weights_sha256"])
            self.assertEqual(first["loss"], second["loss"])
            self.assertNotEqual(first["weights_sha256"], other["weights_sha256"])


if __name__ == "__main__":
    unittest.main()
