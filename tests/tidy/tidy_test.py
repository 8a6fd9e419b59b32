#!/usr/bin/python3
"""Each rule of tidy finds what it forbids in a small bad tree, and is quiet on a small good one."""

import os
import sys
import tempfile
import unittest
from unittest import mock

HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)

import arrow_rules  # noqa: E402
import cpp_text  # noqa: E402
import policy  # noqa: E402
import tidy  # noqa: E402
from tree import Tree  # noqa: E402

GOOD_HEADER = "// A thing: what it is and where it ends.\n#ifndef A_H_\n#define A_H_\n#endif\n"
GOOD_BUILD = """
load("//third_party:copts.bzl", "FATHOM_COPTS")
package(default_visibility = ["//visibility:private"])
cc_library(name = "thing", srcs = ["thing.cc"], hdrs = ["thing.h"], copts = FATHOM_COPTS)
cc_test(name = "thing_test", srcs = ["thing_test.cc"], copts = FATHOM_COPTS, deps = [":thing"])
"""
GOOD_TREE = {
    "a/BUILD.bazel": GOOD_BUILD,
    "a/thing.h": GOOD_HEADER,
    "a/thing.cc": '#include "a/thing.h"\n\nint Thing() { return 1; }\n',
    "a/thing_test.cc": "TEST(Thing, AskedOnce_AnswersOne) {}\n",
}
CATALOG_HEADER = "// Metrics.\n"


def spec(name, kind="Gauge", unit="1", labels=""):
    return (f'inline constexpr MetricSpec kX{{"{name}", MetricKind::k{kind}, "{unit}", '
            f'"Help."{labels}}};\n')


# rule -> files that break it, added to (or put over) the good tree.
BAD = {
    "format": [{"a/thing.cc": "int   Thing( ){return 1;}\n"}],
    "size": [
        {"a/thing.cc": "int x;\n" * 801},
        {"a/thing.cc": "// " + "x" * 101 + "\n"},
        {"a/thing.cc": "int Long() {\n" + "  x();\n" * 80 + "}\n"},
        {"a/thing.cc": "C::C(int a) : a_{a}, b_(a) {\n" + "  x();\n" * 80 + "}\n"},
        {"a/thing.cc": "TEST(A, B_C) {\n" + "  x();\n" * 80 + "}\n"},
        {"a/tool.py": "def f():\n" + "    pass\n" * 80},
    ],
    "clock": [
        {"a/thing.cc": "auto t = std::chrono::steady_clock::now();\n"},
        {"a/thing.cc": "auto t = absl::Now();\n"},
        {"a/thing.cc": "auto t = time(nullptr);\n"},
        {"a/thing.cc": "int r = rand();\n"},
        {"a/thing_test.cc": "std::random_device seed;\n"},
    ],
    "sleep": [
        {"a/thing_test.cc": "std::this_thread::sleep_for(x);\n"},
        {"a/thing.cc": "absl::SleepFor(x);\n"},
        {"a/thing.cc": "usleep(5);\n"},
    ],
    "purity": [
        {"common/plan/p.cc": "#include <thread>\n"},
        {"coordinator/core/p.h": "#include <fstream>\n"},
        {"worker/agent/agent_core.cc": '#include <sys/socket.h>\n'},
        {"common/model/p.cc": '#include "absl/synchronization/mutex.h"\n'},
    ],
    "grpc": [
        {"a/thing.cc": "#include <grpcpp/grpcpp.h>\n"},
        {"a/thing_test.cc": '#include "proto/fathom/v1/worker.grpc.pb.h"\n'},
    ],
    "main": [{"a/main.cc": "int main() {\n" + "// wires\n" * 150 + "}\n"}],
    "test-name": [
        {"a/thing_test.cc": "TEST(Thing, Works) {}\n"},
        {"a/thing_test.cc": "TEST_F(Thing, works_well) {}\n"},
    ],
    "header": [{"a/thing.h": "#ifndef A_H_\n#define A_H_\n#endif\n"}],
    "switched-off": [
        {"a/thing_test.cc": "TEST(Thing, DISABLED_Asked_Answers) {}\n"},
        {"a/thing_test.cc": "GTEST_SKIP();\n"},
        {"a/BUILD.bazel": GOOD_BUILD.replace("deps", "tags = ['flaky'], deps")},
    ],
    "machine-path": [{"a/notes.md": "see " + policy.MACHINE_PATHS[0] + "main\n"}],
    "pair": [
        {"a/other.h": GOOD_HEADER},
        {"a/BUILD.bazel": GOOD_BUILD.replace('name = "thing"', 'name = "all"')},
        {"a/other.h": GOOD_HEADER,
         "a/BUILD.bazel": GOOD_BUILD.replace('["thing.h"]', '["thing.h", "other.h"]')},
        {"a/BUILD.bazel": GOOD_BUILD.replace('name = "thing_test"', 'name = "tests"')},
    ],
    "unit-test": [{"a/BUILD.bazel": GOOD_BUILD.replace("deps", "data")}],
    "visibility": [
        {"a/BUILD.bazel": GOOD_BUILD.replace("visibility:private", "visibility:public")},
        {"a/BUILD.bazel": GOOD_BUILD + 'cc_library(name="x", visibility=["//visibility:public"])'},
    ],
    "warnings": [{"a/BUILD.bazel": GOOD_BUILD.replace("copts = FATHOM_COPTS, deps", "deps")}],
    "grpc-target": [{"a/BUILD.bazel": GOOD_BUILD.replace('":thing"', '"@system//:grpc"')}],
    "registered": [
        {"a/other_test.cc": "TEST(Thing, Asked_Answers) {}\n"},
        {"a/other_test.py": "print(1)\n"},
        {"a/b/other_test.sh": "true\n"},
    ],
    "metrics": [
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_steps", "Counter")},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_steps_total", "Gauge")},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_wait_ms")},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_wait", unit="seconds")},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_a", labels=', {"le"}')},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_a"),
         "dashboards/d.json": '{"targets": [{"expr": "sum(fathom_b)"}]}'},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_a"),
         "dashboards/d.json": '{"targets": [{"expr": "job:fathom_a:rate"}]}'},
        {"common/base/metric_catalog.h": CATALOG_HEADER + spec("fathom_a"),
         "dashboards/r.yml": "groups: [{name: g, rules: [{alert: A, expr: fathom_c > 1}]}]\n"},
    ],
}


class TemporaryTree:
    """The good tree with some files put over it, in a folder of its own."""

    def __init__(self, files):
        self._folder = tempfile.TemporaryDirectory()
        for path, text in {**GOOD_TREE, **files}.items():
            full = os.path.join(self._folder.name, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w", encoding="utf-8") as stream:
                stream.write(text)

    def __enter__(self):
        return Tree(self._folder.name)

    def __exit__(self, *_error):
        self._folder.cleanup()


class RulesTest(unittest.TestCase):

    def test_good_tree_has_no_finding(self):
        with TemporaryTree({}) as tree:
            for name, rule in tidy.RULES.items():
                if name != "arrows":
                    self.assertEqual([str(f) for f in rule(tree)], [], name)

    def test_every_rule_has_a_bad_tree(self):
        self.assertEqual(set(BAD) | {"arrows"}, set(tidy.RULES))

    def test_bad_trees_are_found(self):
        for name, trees in BAD.items():
            for files in trees:
                with self.subTest(rule=name, files=list(files)), TemporaryTree(files) as tree:
                    self.assertTrue(tidy.RULES[name](tree), "nothing found")

    def test_comments_and_literals_are_not_code(self):
        with TemporaryTree({"a/thing.cc": '// rand()\nconst char* s = "absl::Now()";\n'}) as tree:
            self.assertEqual(tidy.RULES["clock"](tree), [])

    def test_allowed_clock_reader_that_reads_none_is_found(self):
        with mock.patch.dict(policy.CLOCK_READERS, {"a/thing": "for this test"}, clear=True):
            with TemporaryTree({}) as tree:
                self.assertTrue(tidy.RULES["clock"](tree))
            with TemporaryTree({"a/thing.cc": "auto t = absl::Now();\n"}) as tree:
                self.assertEqual(tidy.RULES["clock"](tree), [])


class ExceptionsTest(unittest.TestCase):

    BAD_NAME = {"a/thing_test.cc": "TEST(Thing, Works) {}\n"}
    EXCEPTION = {tidy.EXCEPTIONS: "test-name a/thing_test.cc:Works  # until it is split\n"}

    def findings(self, files):
        with TemporaryTree(files) as tree:
            return tidy.run_rule("test-name", tree, tidy.read_exceptions(tree))

    def test_listed_exception_is_excused(self):
        self.assertEqual(len(self.findings(self.BAD_NAME)), 1)
        self.assertEqual(self.findings({**self.BAD_NAME, **self.EXCEPTION}), [])

    def test_exception_that_no_longer_applies_is_found(self):
        findings = self.findings(self.EXCEPTION)
        self.assertEqual(len(findings), 1)
        self.assertIn("no longer applies", str(findings[0]))

    def test_exception_without_a_reason_is_refused(self):
        with TemporaryTree({tidy.EXCEPTIONS: "size a/thing.cc\n"}) as tree:
            with self.assertRaises(ValueError):
                tidy.read_exceptions(tree)


class ArrowsTest(unittest.TestCase):

    GRAPH = """digraph mygraph {
  node [shape=box];
  "//coordinator/core:core"
  "//coordinator/core:core" -> "//common/base:text"
  "//common/base:text" -> "@system//:absl"
  "//worker/engine:engine"
  "@system//:grpc"
}
"""
    ARROWS = (("the core reaches gRPC", ("coordinator/core",), ("@system//:grpc",)),
              ("the coordinator reaches the worker", ("//coordinator/...",), ("//worker/...",)))

    def findings(self, graph, arrows=ARROWS):
        return [str(f) for f in arrow_rules.arrow_findings(graph, arrows, optional=())]

    def test_no_path_has_no_finding(self):
        self.assertEqual(self.findings(self.GRAPH), [])

    def test_indirect_path_is_found_and_printed(self):
        graph = self.GRAPH.replace("@system//:absl", "@system//:grpc")
        findings = self.findings(graph)
        self.assertEqual(len(findings), 1)
        self.assertIn("//coordinator/core:core -> //common/base:text -> @system//:grpc",
                      findings[0])

    def test_path_to_any_target_below_a_folder_is_found(self):
        graph = self.GRAPH.replace('"//common/base:text" ->',
                                   '"//common/base:text" -> "//worker/engine:engine"\n "x" ->')
        self.assertEqual(len(self.findings(graph)), 1)

    def test_pattern_that_matches_nothing_is_found(self):
        findings = self.findings(self.GRAPH, (("a", ("//gone/...",), ("@system//:grpc",)),))
        self.assertIn("matches no target", findings[0])


class FunctionsTest(unittest.TestCase):

    def test_nested_and_braced_code_is_one_function_each(self):
        code = """namespace a {
class B {
 public:
  B() : x_{1} {}
  int Get() const { return x_; }
 private:
  int x_ = 0;
};
std::vector<int> list = {1, 2};
template <typename T>
T Twice(T value) {
  auto f = [&] { return value; };
  if (value) { f(); }
  return f() + f();
}
enum class E { kA, kB };
}  // namespace a
"""
        found = cpp_text.functions(cpp_text.strip(code))
        self.assertEqual([(f.name, f.first_line, f.last_line) for f in found],
                         [("B", 4, 4), ("Get", 5, 5), ("Twice", 10, 15)])


if __name__ == "__main__":
    unittest.main()
