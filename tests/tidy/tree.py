"""The tree as tidy sees it: its files, their text, and the targets of its BUILD files.

A BUILD file is evaluated as the Python it also is, with every rule and macro recorded as a call, so
that the checks need no Bazel and run on a folder of three files as well as on the whole house.
"""

import builtins
import fnmatch
import os
import re
import subprocess

CPP_SUFFIXES = (".cc", ".h", ".cu", ".cuh")
TEXT_SUFFIXES = CPP_SUFFIXES + (
    ".py", ".sh", ".bzl", ".bazel", ".proto", ".yaml", ".yml", ".json", ".md", ".txt", ".toml")
SKIPPED_FOLDERS = ("bazel-", ".git/", "__pycache__/")


class Finding:
    """One broken rule at one place. `subject` is what an exception names, such as path:function."""

    def __init__(self, rule, path, line, message, subject=None):
        self.rule = rule
        self.path = path
        self.line = line
        self.message = message
        self.subject = subject or path

    def __str__(self):
        return f"{self.path}:{self.line}: [{self.rule}] {self.message}"


class Target:
    """One call of a rule or macro in a BUILD file."""

    def __init__(self, package, kind, attributes, line):
        self.package = package
        self.kind = kind
        self.attributes = attributes
        self.line = line
        self.name = attributes.get("name", "")

    @property
    def build_file(self):
        return os.path.join(self.package, "BUILD.bazel") if self.package else "BUILD.bazel"

    @property
    def label(self):
        return f"//{self.package}:{self.name}"

    @property
    def is_test(self):
        return self.kind.endswith("_test") or self.kind == "test_suite"

    def strings(self, attribute):
        """The attribute as a list of strings; a single string is a list of one."""
        value = self.attributes.get(attribute, [])
        if isinstance(value, str):
            return [value]
        return [item for item in value if isinstance(item, str)]

    def dependencies(self):
        """Absolute labels of deps; ':x' and 'x' become '//package:x'."""
        return [absolute_label(self.package, label) for label in self.strings("deps")]


def absolute_label(package, label):
    if label.startswith("@"):
        return label
    if label.startswith(":"):
        return f"//{package}{label}"
    if label.startswith("//"):
        return label if ":" in label else f"{label}:{label.rsplit('/', 1)[-1]}"
    return f"//{package}:{label}"


class _Symbol:
    """Stands for anything a BUILD file loads: callable, addable, printable."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def __add__(self, other):
        return [self] + list(other if isinstance(other, (list, tuple)) else [other])

    def __radd__(self, other):
        return list(other) + [self]


class _BuildNames(dict):
    """Names of a BUILD file; one that is not known is taken for a rule and recorded when called."""

    def __init__(self, tree, package):
        super().__init__()
        self._tree = tree
        self._package = package
        self.targets = []
        self.package_attributes = {}
        self["load"] = self._load
        self["package"] = self._set_package
        self["glob"] = self._glob
        self["select"] = self._select

    def _load(self, _file, *names, **aliases):
        for name in list(names) + list(aliases):
            if name.isupper():
                self[name] = _Symbol(name)

    def _set_package(self, **attributes):
        self.package_attributes = attributes

    def _glob(self, include, exclude=(), **_ignored):
        prefix = self._package + "/" if self._package else ""
        own = [p[len(prefix):] for p in self._tree.files if p.startswith(prefix)]
        return [p for p in own
                if any(_matches(p, pattern) for pattern in include)
                and not any(_matches(p, pattern) for pattern in exclude)]

    @staticmethod
    def _select(branches, **_ignored):
        merged = []
        for value in branches.values():
            merged.extend(value if isinstance(value, list) else [value])
        return merged

    def __missing__(self, name):
        if name.startswith("__") or name in ("True", "False", "None"):
            raise KeyError(name)
        if hasattr(builtins, name):
            return getattr(builtins, name)

        def record(*arguments, **attributes):
            if arguments and "name" not in attributes:
                attributes["name"] = arguments[0]
            line = _line_of(self._tree, self._package, attributes.get("name", ""))
            self.targets.append(Target(self._package, name, attributes, line))

        return record


def _matches(path, pattern):
    if "**" in pattern:
        return fnmatch.fnmatch(path, pattern.replace("**/", "*"))
    return "/" not in path and fnmatch.fnmatch(path, pattern)


def _line_of(tree, package, name):
    build_file = os.path.join(package, "BUILD.bazel") if package else "BUILD.bazel"
    for number, line in enumerate(tree.text(build_file).splitlines(), 1):
        if re.search(r'name\s*=\s*"' + re.escape(str(name)) + '"', line):
            return number
    return 1


class Tree:
    """All files under a root: those git knows or would add, or simply all where there is no git."""

    def __init__(self, root):
        self.root = os.path.abspath(root)
        self.files = sorted(self._list_files())
        self._texts = {}
        self._packages = None

    def _list_files(self):
        if os.path.isdir(os.path.join(self.root, ".git")):
            listed = subprocess.run(
                ["git", "-C", self.root, "ls-files", "-co", "--exclude-standard"],
                check=True, capture_output=True, text=True).stdout.splitlines()
            return [p for p in listed if os.path.isfile(os.path.join(self.root, p))]
        found = []
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = os.path.relpath(os.path.join(folder, name), self.root)
                if not any(path.startswith(s) or "/" + s in path for s in SKIPPED_FOLDERS):
                    found.append(path)
        return found

    def text(self, path):
        if path not in self._texts:
            with open(os.path.join(self.root, path), encoding="utf-8", errors="replace") as stream:
                self._texts[path] = stream.read()
        return self._texts[path]

    def cpp_files(self):
        return [p for p in self.files if p.endswith(CPP_SUFFIXES)]

    def text_files(self):
        return [p for p in self.files
                if p.endswith(TEXT_SUFFIXES)
                or os.path.basename(p) in ("run", "WORKSPACE", ".bazelrc")]

    def packages(self):
        """{package: _BuildNames} of every folder with a BUILD.bazel."""
        if self._packages is None:
            self._packages = {}
            for path in self.files:
                if os.path.basename(path) == "BUILD.bazel":
                    package = os.path.dirname(path)
                    names = _BuildNames(self, package)
                    exec(compile(self.text(path), path, "exec"), names)  # pylint: disable=exec-used
                    self._packages[package] = names
        return self._packages

    def targets(self):
        return [t for names in self.packages().values() for t in names.targets]
