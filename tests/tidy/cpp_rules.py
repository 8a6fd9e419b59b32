"""Rules on the text of C++ files: size, clocks, purity, gRPC, names of tests, headers' purposes."""

import os
import re
import subprocess

import cpp_text
import policy
from tree import Finding

_CLOCK = re.compile(
    r"_clock::now\s*\(|\babsl::Now\s*\(|\bclock_gettime\s*\(|\bgettimeofday\s*\("
    r"|\bstd::time\s*\(|(?<![\w.>:])time\s*\(\s*(?:nullptr|NULL|0|&)"
    r"|\brandom_device\b|(?<![\w.>:])s?rand(?:_r)?\s*\(\s*\w*\s*\)|\bstd::rand\b"
    r"|\bgetrandom\s*\(|\bgetentropy\s*\(|\babsl::(?:Insecure)?BitGen\b|\bRAND_bytes\b"
    r"|\bGetCurrentTimeNanos\b")
_SLEEP = re.compile(
    r"\bsleep_(?:for|until)\b|\babsl::SleepFor\b|(?<![\w.>:])(?:u|nano)?sleep\s*\(")
_INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
_TEST = re.compile(
    r"^\s*(?:TYPED_)?TEST(?:_[FP])?(?:_SUITE)?\s*\(\s*(\w+)\s*,\s*(\w+)\s*\)", re.M)
_TEST_NAME = re.compile(r"[A-Z][A-Za-z0-9]*(?:_[A-Z0-9][A-Za-z0-9]*)+")


def _own(tree):
    return [p for p in tree.cpp_files() if not p.startswith(policy.OVERLAY_FOLDERS)]


def _stem(path):
    return os.path.splitext(path)[0]


def _is_test(path):
    return _stem(path).endswith("_test")


def _is_pure(path):
    return (os.path.dirname(path) in policy.PURE_PACKAGES or
            any(path.startswith(p + "/") for p in policy.PURE_PACKAGES) or
            _stem(path) in policy.PURE_FILES)


def _includes(text):
    for number, line in enumerate(text.splitlines(), 1):
        match = _INCLUDE.match(line)
        if match:
            yield number, match.group(1)


def format_rule(tree):
    """clang-format has nothing to say."""
    files = _own(tree)
    if not files:
        return []
    style = "file" if ".clang-format" in tree.files else "{BasedOnStyle: Google, ColumnLimit: 100}"
    result = subprocess.run(
        ["clang-format", f"--style={style}", "--dry-run", "-Werror"] + files, cwd=tree.root,
        capture_output=True, text=True)
    first = {}
    for match in re.finditer(r"^(\S+?):(\d+):\d+: error:", result.stderr, re.M):
        first.setdefault(match.group(1), int(match.group(2)))
    findings = [Finding("format", path, line, "run clang-format -i on this file")
                for path, line in first.items()]
    if result.returncode != 0 and not findings:
        findings.append(Finding("format", ".", 1, "clang-format failed: " + result.stderr[:300]))
    return findings


def clock_rule(tree):
    """Real time and randomness are read only where policy.CLOCK_READERS allows it."""
    findings = _guarded(tree, _own(tree), "clock", _CLOCK, policy.CLOCK_READERS,
                        "reads real time or randomness; pass a Clock or a seed in")
    return findings


def sleep_rule(tree):
    """Nothing sleeps, tests least of all."""
    return _guarded(tree, _own(tree), "sleep", _SLEEP, policy.SLEEPERS,
                    "sleeps; wait for the condition itself, with a deadline")


def _guarded(tree, files, rule, pattern, allowed, message):
    findings = []
    used = set()
    for path in files:
        for number, line in enumerate(cpp_text.strip(tree.text(path)).splitlines(), 1):
            if pattern.search(line):
                if _stem(path) in allowed:
                    used.add(_stem(path))
                else:
                    findings.append(Finding(rule, path, number, message))
    for stem in sorted(set(allowed) - used):
        if any(_stem(p) == stem for p in files) or len(files) > 50:
            findings.append(Finding(rule, "tests/tidy/policy.py", 1,
                                    f"{stem} is allowed to, and does not: take it off the list"))
    return findings


def purity_rule(tree):
    """Pure code includes no threads, files, sockets or clocks."""
    impure = re.compile("(?:" + "|".join(policy.IMPURE_HEADERS) + ")$")
    return [Finding("purity", path, number, f"pure code includes <{header}>")
            for path in _own(tree) if _is_pure(path) and not _is_test(path)
            for number, header in _includes(tree.text(path)) if impure.match(header)]


def grpc_rule(tree):
    """gRPC headers only in *_service, *_client and main files, and their tests."""
    findings = []
    for path in _own(tree):
        stem = _stem(path)
        stem = stem[:-len("_test")] if stem.endswith("_test") else stem
        if os.path.basename(stem).endswith(policy.GRPC_STEMS):
            continue
        for number, header in _includes(tree.text(path)):
            if header.startswith("grpc") or header.endswith(".grpc.pb.h"):
                findings.append(Finding("grpc", path, number,
                                        f"<{header}> outside a *_service, *_client or main file"))
    return findings


def main_rule(tree):
    """main wires and nothing else."""
    findings = []
    for path in _own(tree):
        if re.search(r"\bint\s+main\s*\(", cpp_text.strip(tree.text(path))):
            lines = tree.text(path).count("\n")
            if lines >= policy.MAX_MAIN_LINES:
                findings.append(Finding("main", path, 1, f"a main file of {lines} lines; it wires "
                                        f"in under {policy.MAX_MAIN_LINES}"))
    return findings


def size_rule(tree):
    """Files, functions and lines keep to their lengths."""
    findings = []
    for path in tree.files:
        if not path.endswith((".cc", ".h", ".cu", ".cuh", ".py", ".sh", ".bzl", ".proto")):
            continue
        lines = tree.text(path).splitlines()
        if len(lines) >= policy.MAX_FILE_LINES:
            findings.append(Finding("size", path, 1, f"{len(lines)} lines; split it at a seam"))
        for number, line in enumerate(lines, 1):
            if len(line) > policy.MAX_COLUMNS and not path.startswith(policy.OVERLAY_FOLDERS):
                if not re.search(r"https?://\S{60,}", line):
                    findings.append(Finding("size", path, number, f"{len(line)} columns"))
        for function in _functions(tree, path):
            if function.lines > policy.MAX_FUNCTION_LINES:
                findings.append(Finding(
                    "size", path, function.first_line,
                    f"{function.name} has {function.lines} lines",
                    subject=f"{path}:{function.name}"))
    return findings


def _functions(tree, path):
    if path.endswith((".cc", ".h", ".cu", ".cuh")):
        return cpp_text.functions(cpp_text.strip(tree.text(path)))
    if path.endswith(".py"):
        import ast
        return [cpp_text.Function(node.name, node.lineno, node.end_lineno)
                for node in ast.walk(ast.parse(tree.text(path)))
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return []


def test_name_rule(tree):
    """Tests are named Condition_Outcome."""
    findings = []
    for path in _own(tree):
        stripped = cpp_text.strip(tree.text(path))
        for match in _TEST.finditer(stripped):
            if "_SUITE" in match.group(0).split("(")[0]:
                continue
            if not _TEST_NAME.fullmatch(match.group(2)):
                line = stripped.count("\n", 0, match.start(2)) + 1
                findings.append(Finding("test-name", path, line,
                                        f"{match.group(2)} is not Condition_Outcome",
                                        subject=f"{path}:{match.group(2)}"))
    return findings


def header_rule(tree):
    """Every header opens with its purpose: a comment before anything else."""
    findings = []
    for path in _own(tree):
        if path.endswith((".h", ".cuh")):
            head = tree.text(path).lstrip()
            if not re.match(r"(//[^\n]*\w[^\n]*\n){1,}|/\*", head):
                findings.append(Finding("header", path, 1, "opens without saying its purpose"))
    return findings


def switched_off_rule(tree):
    """No test is switched off, skipped or excused."""
    findings = []
    for path in tree.files:
        if path.startswith("tests/tidy/") or not path.endswith(
                (".cc", ".h", ".py", ".sh", ".bzl", ".bazel")):
            continue
        for number, line in enumerate(tree.text(path).splitlines(), 1):
            if any(re.search(pattern, line) for pattern in policy.SWITCHED_OFF):
                findings.append(Finding("switched-off", path, number, line.strip()[:80]))
    return findings


def machine_path_rule(tree):
    """No file names a folder of the machine it was written on."""
    return [Finding("machine-path", path, number, f"names {word}")
            for path in tree.text_files()
            for number, line in enumerate(tree.text(path).splitlines(), 1)
            for word in policy.MACHINE_PATHS
            if re.search(r"(?<![\w.$})-])" + re.escape(word), line)]
