"""The arrows between layers that must not exist, looked for in Bazel's own dependency graph."""

import collections
import re
import subprocess

import policy
from tree import Finding

_EDGE = re.compile(r'^\s*"([^"]+)"\s*->\s*"([^"]+)"')
_NODE = re.compile(r'^\s*"([^"]+)"\s*$')


def bazel_graph(root, bazel="bazel"):
    """The graph of everything under the root, as `bazel query` prints it."""
    command = [bazel, "query", "deps(//...)", "--output=graph", "--nograph:factored",
               "--graph:node_limit=0", "--noimplicit_deps", "--nohost_deps"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError("bazel query failed: " + result.stderr[-2000:])
    return result.stdout


def parse(graph_text):
    """{label: [labels it depends on]} from the text of `--output=graph`."""
    edges = collections.defaultdict(list)
    for line in graph_text.splitlines():
        edge = _EDGE.match(line)
        node = _NODE.match(line)
        if edge:
            edges[edge.group(1)].append(edge.group(2))
            edges.setdefault(edge.group(2), [])
        elif node:
            edges.setdefault(node.group(1), [])
    return edges


def matches(label, pattern):
    """Whether a label is in a pattern: a label, or a folder as '//a/...', '//a' or 'a'."""
    if ":" in pattern:
        return label == pattern
    package = label.split(":")[0]
    folder = pattern if pattern.startswith("//") else "//" + pattern
    if folder.endswith("/..."):
        folder = folder[:-len("/...")]
        return package == folder or package.startswith(folder + "/")
    return package == folder or package.startswith(folder + "/")


def some_path(edges, sources, targets):
    """One shortest path from a source to a target, as labels; None where there is none."""
    targets = set(targets)
    came_from = {label: None for label in sources}
    queue = collections.deque(sources)
    while queue:
        label = queue.popleft()
        if label in targets:
            path = []
            while label is not None:
                path.append(label)
                label = came_from[label]
            return path[::-1]
        for successor in edges.get(label, ()):
            if successor not in came_from:
                came_from[successor] = label
                queue.append(successor)
    return None


def arrow_findings(graph_text, arrows=policy.FORBIDDEN_ARROWS, optional=policy.ABSENT_PACKAGES):
    """A finding for each arrow that exists, and for each pattern that stands for nothing."""
    edges = parse(graph_text)
    findings = []
    for what, source_patterns, target_patterns in arrows:
        for pattern in tuple(source_patterns) + tuple(target_patterns):
            if pattern not in optional and not any(matches(label, pattern) for label in edges):
                findings.append(Finding("arrows", "tests/tidy/policy.py", 1,
                                        f"'{what}': {pattern} matches no target", subject=pattern))
        sources = [label for label in edges if any(matches(label, p) for p in source_patterns)]
        targets = [label for label in edges if any(matches(label, p) for p in target_patterns)]
        path = some_path(edges, sources, targets)
        if path:
            package = path[0].split(":")[0].lstrip("/")
            findings.append(Finding("arrows", f"{package}/BUILD.bazel", 1,
                                    f"{what}: " + " -> ".join(path), subject=what))
    return findings


def arrow_rule(tree):
    """No forbidden dependency."""
    try:
        return arrow_findings(bazel_graph(tree.root))
    except (RuntimeError, OSError) as error:
        return [Finding("arrows", "BUILD.bazel", 1, str(error))]
