#!/usr/bin/python3
"""Turns what Bazel and tidy report into one line per test: 'passed NAME' or 'failed NAME LOG'.

    tests/tally.py bazel PREFIX EXPECTED EVENTS   EXPECTED: a label per line; EVENTS: Bazel's
                                                  --build_event_json_file
    tests/tally.py tidy SUMMARY LOG               SUMMARY: the JSON file of tidy.py --summary

A test that was expected and did not report, because it did not build or never ran, has failed.
"""

import json
import os
import sys


def bazel_outcomes(events):
    """{label: (status, log)} from the lines of a build event file; a broken line is ignored."""
    outcomes = {}
    for line in events:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        label = event.get("id", {}).get("testSummary", {}).get("label")
        if label:
            summary = event.get("testSummary", {})
            logs = summary.get("failed", []) or summary.get("passed", [])
            log = logs[0].get("uri", "").replace("file://", "") if logs else ""
            outcomes[label] = (summary.get("overallStatus", "NO_STATUS"), log)
    return outcomes


def tally_bazel(prefix, expected, events):
    outcomes = bazel_outcomes(events)
    for label in expected:
        status, log = outcomes.get(label, ("NOT_BUILT_OR_NOT_RUN", ""))
        if status == "PASSED":
            yield f"passed {prefix}{label}"
        else:
            yield f"failed {prefix}{label} {status.lower()} {log}".rstrip()


def tally_tidy(counts, log):
    for rule, findings in counts.items():
        if findings:
            yield f"failed tidy/{rule} {findings} findings {log}"
        else:
            yield f"passed tidy/{rule}"


def _lines(path):
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as stream:
        return stream.read().splitlines()


def main(arguments):
    if len(arguments) == 4 and arguments[0] == "bazel":
        expected = [line for line in _lines(arguments[2]) if line.strip()]
        lines = list(tally_bazel(arguments[1], expected, _lines(arguments[3])))
        if not lines:
            lines = [f"failed {arguments[1] or 'bazel'} found no tests"]
    elif len(arguments) == 3 and arguments[0] == "tidy":
        text = "\n".join(_lines(arguments[1]))
        lines = list(tally_tidy(json.loads(text), arguments[2])) if text else [
            f"failed tidy did not finish {arguments[2]}"]
    else:
        print(__doc__, file=sys.stderr)
        return 2
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
