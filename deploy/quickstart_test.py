#!/usr/bin/python3
"""What quickstart.sh says before it builds anything, and the summary it ends with."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import quickstart_summary  # noqa: E402

JOB = {
    "name": "tiny", "state": "COMPLETED", "step": 100, "loss": 2.0, "validation_loss": 1.9,
    "weights_sha256": "ab" * 32, "started": "2030-01-01T00:00:00Z",
    "finished": "2030-01-01T00:01:40Z", "last_step": {"tokens": 4096},
}
DATA = {"unigram_entropy": 3.2, "bigram_entropy": 2.4}


class OptionsTest(unittest.TestCase):

    def run_quickstart(self, *options):
        return subprocess.run([os.path.join(HERE, "quickstart.sh"), *options], text=True,
                              capture_output=True, timeout=20)

    def test_help_names_every_option_and_changes_nothing(self):
        result = self.run_quickstart("--help")
        self.assertEqual(result.returncode, 0)
        for option in ("--steps", "--summary", "--state-dir", "--keep-running", "--down"):
            self.assertIn(option, result.stdout)

    def test_wrong_option_is_named_before_anything_is_done(self):
        for options in (("--stepps", "5"), ("--steps", "many"), ("--steps", "0"), ("--steps",),
                        ("--summary",), ("--state-dir", ""), ("now",)):
            with self.subTest(options=options):
                result = self.run_quickstart(*options)
                self.assertEqual(result.returncode, 2)
                self.assertIn(options[0], result.stderr)
                self.assertNotIn("1/5", result.stdout)


class SummaryTest(unittest.TestCase):

    def test_summary_counts_tokens_over_the_whole_training(self):
        summary = quickstart_summary.summary_of(JOB, DATA, 4, 2)
        self.assertEqual(summary["tokens_per_second"], 4096)
        self.assertEqual((summary["steps"], summary["nodes"], summary["ranks"]), (100, 4, 8))

    def test_report_boasts_only_below_the_bigram_entropy(self):
        for loss, boasts in ((1.9, True), (2.5, False)):
            summary = quickstart_summary.summary_of(dict(JOB, validation_loss=loss), DATA, 4, 2)
            text = "\n".join(quickstart_summary.report(summary))
            self.assertEqual("knows more" in text, boasts)

    def test_summary_file_is_json_with_every_promised_field(self):
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("job", "data", "summary")]
            for path, content in zip(paths, (JOB, DATA)):
                with open(path, "w", encoding="utf-8") as stream:
                    json.dump(content, stream)
            self.assertEqual(quickstart_summary.main(
                ["summary", paths[0], paths[1], "4", "2", paths[2]]), 0)
            with open(paths[2], encoding="utf-8") as stream:
                written = json.load(stream)
        self.assertLessEqual(
            {"final_loss", "validation_loss", "unigram_entropy", "bigram_entropy", "steps",
             "tokens_per_second", "nodes", "ranks"}, set(written))

    def test_only_jobs_that_have_not_ended_are_unfinished(self):
        jobs = [{"name": "tiny", "state": state} for state in ("COMPLETED", "RUNNING")]
        self.assertEqual(quickstart_summary.unfinished(jobs, "tiny"), ["tiny"])
        self.assertEqual(quickstart_summary.unfinished(jobs[:1], "tiny"), [])
        self.assertEqual(quickstart_summary.unfinished(jobs, "toy"), [])


if __name__ == "__main__":
    unittest.main()
