#!/usr/bin/python3
"""Checks what a program can check of the house style.

    tests/tidy/tidy.py                    every rule, over the tree this file lies in
    tests/tidy/tidy.py --rule clock       one rule (may be repeated)
    tests/tidy/tidy.py --root FOLDER      another tree
    tests/tidy/tidy.py --list             the rules

Prints a line per finding and a line per rule; exits with 1 when a rule is broken. Known exceptions
stand in tests/tidy/exceptions.txt; one that no longer applies is a finding too, so the list only
shrinks.
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import arrow_rules  # noqa: E402
import build_rules  # noqa: E402
import cpp_rules  # noqa: E402
import metric_rules  # noqa: E402
from tree import Finding, Tree  # noqa: E402

EXCEPTIONS = "tests/tidy/exceptions.txt"

RULES = {
    "format": cpp_rules.format_rule,
    "size": cpp_rules.size_rule,
    "clock": cpp_rules.clock_rule,
    "sleep": cpp_rules.sleep_rule,
    "purity": cpp_rules.purity_rule,
    "grpc": cpp_rules.grpc_rule,
    "main": cpp_rules.main_rule,
    "test-name": cpp_rules.test_name_rule,
    "header": cpp_rules.header_rule,
    "switched-off": cpp_rules.switched_off_rule,
    "machine-path": cpp_rules.machine_path_rule,
    "pair": build_rules.pair_rule,
    "unit-test": build_rules.unit_test_rule,
    "visibility": build_rules.visibility_rule,
    "warnings": build_rules.warnings_rule,
    "grpc-target": build_rules.grpc_target_rule,
    "registered": build_rules.registered_rule,
    "metrics": metric_rules.metric_rule,
    "arrows": arrow_rules.arrow_rule,
}


def read_exceptions(tree):
    """[(rule, subject, line)] of the exceptions file: '<rule> <subject>  # why'."""
    if EXCEPTIONS not in tree.files:
        return []
    entries = []
    for number, line in enumerate(tree.text(EXCEPTIONS).splitlines(), 1):
        words, _, reason = line.partition("#")
        words = words.split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in RULES or not reason.strip():
            raise ValueError(f"{EXCEPTIONS}:{number}: not '<rule> <subject>  # <why>'")
        entries.append((words[0], words[1], number))
    return entries


def run_rule(name, tree, exceptions):
    """Findings of one rule after its exceptions, and a finding for each exception nobody needs."""
    excused = {subject: line for rule, subject, line in exceptions if rule == name}
    findings = RULES[name](tree)
    used = {f.subject for f in findings if f.subject in excused}
    kept = [f for f in findings if f.subject not in excused]
    for subject, line in sorted(excused.items()):
        if subject not in used:
            kept.append(Finding(name, EXCEPTIONS, line,
                                f"the exception for {subject} no longer applies; delete it"))
    return kept


def main(arguments):
    parser = argparse.ArgumentParser(description="Checks the house style.")
    here = os.path.dirname(os.path.realpath(__file__))
    parser.add_argument("--root", default=os.path.dirname(os.path.dirname(here)))
    parser.add_argument("--rule", action="append", choices=sorted(RULES), help="only this rule")
    parser.add_argument("--summary", help="write {rule: findings} to this JSON file")
    parser.add_argument("--list", action="store_true", help="list the rules")
    options = parser.parse_args(arguments)
    if options.list:
        for name, rule in RULES.items():
            print(f"{name:14}{rule.__doc__.splitlines()[0]}")
        return 0
    tree = Tree(options.root)
    exceptions = read_exceptions(tree)
    counts = {}
    for name in options.rule or RULES:
        findings = run_rule(name, tree, exceptions)
        for finding in findings:
            print(finding)
        counts[name] = len(findings)
        print(f"tidy: {name}: {'ok' if not findings else f'{len(findings)} findings'}", flush=True)
    if options.summary:
        with open(options.summary, "w", encoding="utf-8") as stream:
            json.dump(counts, stream, indent=1)
    return 1 if any(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
