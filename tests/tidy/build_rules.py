"""Rules on BUILD files: one target per pair, private by default, every test registered."""

import os
import re

import policy
from tree import Finding

_TEST_SOURCE = re.compile(r"_test\.(cc|cu|py|sh)$")


def _own_targets(tree):
    return [t for t in tree.targets() if not (t.package + "/").startswith(policy.OVERLAY_FOLDERS)]


def pair_rule(tree):
    """x.h and x.cc are one cc_library called x; x_test.cc is a cc_test called x_test."""
    findings = []
    owners = {}  # path -> targets that list it
    for target in _own_targets(tree):
        for attribute in ("srcs", "hdrs"):
            for source in target.strings(attribute):
                if not source.startswith((":", "//", "@")):
                    owners.setdefault(os.path.join(target.package, source), []).append(target)
        findings += _header_findings(target)
    for path in tree.cpp_files():
        if path.startswith(policy.OVERLAY_FOLDERS):
            continue
        stem, suffix = os.path.splitext(os.path.basename(path))
        listed = [t for t in owners.get(path, []) if not (suffix == ".cc" and t.is_test and
                                                         t.name != stem)]
        if not owners.get(path):
            findings.append(Finding("pair", path, 1, "no target lists this file"))
        elif suffix == ".h" or _has_header(tree, path):
            if not any(t.name == stem for t in listed):
                names = ", ".join(t.label for t in listed)
                findings.append(Finding("pair", path, 1, f"belongs to {names}, not to :{stem}"))
        elif stem.endswith("_test") and not any(t.name == stem for t in listed):
            findings.append(Finding("pair", path, 1, f"no cc_test is called {stem}"))
    return findings


def _has_header(tree, path):
    return os.path.splitext(path)[0] + ".h" in tree.files


def _header_findings(target):
    headers = target.strings("hdrs")
    if target.kind == "cc_library" and len(headers) > 1:
        return [Finding("pair", target.build_file, target.line,
                        f"{target.label} has {len(headers)} headers; one target per pair",
                        subject=target.label)]
    return []


def unit_test_rule(tree):
    """A library with code has a test beside it that depends on it, directly or through others."""
    findings = []
    targets = {target.label: target for target in _own_targets(tree)}
    tested = set()
    for target in targets.values():
        if target.kind.endswith("_test"):
            tested.update(label for label in _reached(targets, target)
                          if (targets[label].package + "/").startswith(target.package + "/"))
    for target in targets.values():
        if target.kind != "cc_library" or target.attributes.get("testonly"):
            continue
        if target.strings("srcs") and target.label not in tested:
            findings.append(Finding("unit-test", target.build_file, target.line,
                                    f"no test depends on {target.label}", subject=target.label))
    return findings


def _reached(targets, start):
    """Labels of own targets that one depends on, directly or not."""
    reached = set()
    waiting = [start]
    while waiting:
        for label in waiting.pop().dependencies():
            if label in targets and label not in reached:
                reached.add(label)
                waiting.append(targets[label])
    return reached


def visibility_rule(tree):
    """Private by default, and public to nobody in particular nowhere."""
    findings = []
    for package, names in tree.packages().items():
        build_file = os.path.join(package, "BUILD.bazel") if package else "BUILD.bazel"
        if (package + "/").startswith(policy.OVERLAY_FOLDERS):
            continue
        default = names.package_attributes.get("default_visibility", ["//visibility:private"])
        if default != ["//visibility:private"] and not package.startswith("proto/"):
            findings.append(Finding("visibility", build_file, 1,
                                    f"default_visibility is {default}, not private"))
        for target in names.targets:
            if "//visibility:public" in target.strings("visibility"):
                findings.append(Finding("visibility", build_file, target.line,
                                        f"{target.label} is public; name a package group",
                                        subject=target.label))
    return findings


def warnings_rule(tree):
    """Warnings are errors in own code: every cc target takes FATHOM_COPTS."""
    return [Finding("warnings", t.build_file, t.line, f"{t.label} lacks copts = FATHOM_COPTS",
                    subject=t.label)
            for t in _own_targets(tree)
            if t.kind in ("cc_library", "cc_binary", "cc_test")
            and [s for s in t.strings("srcs") + t.strings("hdrs") if s.endswith((".cc", ".h"))]
            and "FATHOM_COPTS" not in repr(t.attributes.get("copts", ""))]


def grpc_target_rule(tree):
    """Only *_service, *_client and main targets, and their tests, depend on gRPC by themselves."""
    findings = []
    for target in _own_targets(tree):
        name = target.name[:-len("_test")] if target.kind.endswith("_test") else target.name
        if target.kind == "cc_binary" or name.endswith(policy.GRPC_STEMS):
            continue
        for label in target.dependencies():
            if label == "@system//:grpc" or label.endswith("_grpc"):
                findings.append(Finding("grpc-target", target.build_file, target.line,
                                        f"{target.label} depends on {label}",
                                        subject=target.label))
    return findings


def registered_rule(tree):
    """Every test file is the source of a test target, in every tree of tests."""
    registered = set()
    for target in tree.targets():
        if target.is_test:
            # A macro that is told no source takes the file of its own name.
            sources = target.strings("srcs") + target.strings("src") or [
                target.name + suffix for suffix in (".cc", ".py", ".sh")]
            registered.update(os.path.join(target.package, s.lstrip(":")) for s in sources)
    return [Finding("registered", path, 1, "no test target runs this file")
            for path in tree.files if _TEST_SOURCE.search(path) and path not in registered]
