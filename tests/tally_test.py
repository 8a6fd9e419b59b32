#!/usr/bin/python3
"""The tally counts what passed, and counts as failed whatever did not say that it passed."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import tally  # noqa: E402


def event(label, status, log=None):
    logs = {"failed": [{"uri": "file://" + log}]} if log else {}
    return json.dumps({"id": {"testSummary": {"label": label}},
                       "testSummary": {"overallStatus": status, **logs}})


class TallyTest(unittest.TestCase):

    def tally(self, expected, events):
        return list(tally.tally_bazel("asan ", expected, events))

    def test_passed_test_is_counted_once(self):
        self.assertEqual(self.tally(["//a:b"], [event("//a:b", "PASSED"), "{}"]),
                         ["passed asan //a:b"])

    def test_failed_test_names_its_log(self):
        self.assertEqual(self.tally(["//a:b"], [event("//a:b", "FAILED", "/logs/b")]),
                         ["failed asan //a:b failed /logs/b"])

    def test_test_that_timed_out_has_failed(self):
        self.assertEqual(self.tally(["//a:b"], [event("//a:b", "TIMEOUT")]),
                         ["failed asan //a:b timeout"])

    def test_expected_test_without_a_report_has_failed(self):
        self.assertEqual(self.tally(["//a:b"], []), ["failed asan //a:b not_built_or_not_run"])

    def test_broken_event_file_fails_what_it_lost(self):
        broken = event("//a:b", "PASSED")[:-5]
        self.assertEqual(len([line for line in self.tally(["//a:b"], [broken])
                              if line.startswith("failed")]), 1)

    def test_tidy_rule_with_findings_has_failed(self):
        self.assertEqual(list(tally.tally_tidy({"size": 0, "clock": 2}, "log")),
                         ["passed tidy/size", "failed tidy/clock 2 findings log"])


if __name__ == "__main__":
    unittest.main()
