"""Reads C++ without parsing it: text with comments and strings blanked, and where functions lie.

Limits: the preprocessor is not run, and a macro that hides a brace would confuse the functions.
"""

import re

_RAW_STRING = re.compile(r'R"([^()\\ \t\n]{0,16})\(')
_BLOCK_HEADS = re.compile(r"\b(class|struct|union|enum|namespace)\b")
_ACCESS = re.compile(r"\s*(public|private|protected)\s*")
_AFTER_SIGNATURE = {"const", "noexcept", "override", "final", "mutable", "try", "else", "do", "&",
                    "&&"}


def strip(text):
    """The text with comments and literals blanked; every line keeps its number and length."""
    out = []
    i = 0
    while i < len(text):
        two = text[i:i + 2]
        if two == "//":
            end = text.find("\n", i)
            end = len(text) if end < 0 else end
        elif two == "/*":
            end = text.find("*/", i + 2)
            end = len(text) if end < 0 else end + 2
        elif text[i] == "R" and _RAW_STRING.match(text, i) and not _is_word(text, i - 1):
            delimiter = _RAW_STRING.match(text, i).group(1)
            end = text.find(")" + delimiter + '"', i)
            end = len(text) if end < 0 else end + len(delimiter) + 2
        elif text[i] == '"' or (text[i] == "'" and not _is_word(text, i - 1)):
            end = _literal_end(text, i)
            out.append(text[i] + " " * (end - i - 2) + text[i])
            i = end
            continue
        else:
            out.append(text[i])
            i += 1
            continue
        out.append(re.sub(r"[^\n]", " ", text[i:end]))
        i = end
    return "".join(out)


def _is_word(text, i):
    return i >= 0 and (text[i].isalnum() or text[i] == "_")


def _literal_end(text, start):
    i = start + 1
    while i < len(text) and text[i] != text[start]:
        if text[i] == "\n":
            return i
        i += 2 if text[i] == "\\" else 1
    return min(i + 1, len(text))


class Function:
    """A function with a body: from the first line of its signature to its closing brace."""

    def __init__(self, name, first_line, last_line):
        self.name = name
        self.first_line = first_line
        self.last_line = last_line

    @property
    def lines(self):
        return self.last_line - self.first_line + 1


def functions(stripped):
    """Functions at namespace or class scope, in order. What is nested in one belongs to it."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()),
                  stripped, flags=re.M)
    found = []
    scopes = []  # "scope", "skip", or the start offset of a function
    start = 0    # of the statement being read
    i = 0
    while i < len(code):
        character = code[i]
        in_scope = all(s == "scope" for s in scopes)
        if character == "{":
            if not in_scope:
                scopes.append("skip")
            else:
                kind = _brace_kind(code[start:i])
                scopes.append((start, code[start:i]) if kind == "function" else kind)
                if kind == "scope":
                    start = i + 1
        elif character == "}" and scopes:
            closed = scopes.pop()
            if isinstance(closed, tuple):
                found.append(_function(code, closed, i))
            if closed == "scope" or isinstance(closed, tuple):
                start = i + 1
        elif in_scope and (character == ";" or
                           character == ":" and _ACCESS.fullmatch(code[start:i])):
            start = i + 1
        i += 1
    return found


def _brace_kind(head):
    """What the brace after `head` opens: a "scope", a "function", or a "skip"ped initialiser."""
    words = head.split()
    if not words:
        return "scope"
    signature = re.sub(r"<[^<>()]*>", "", head)
    if _BLOCK_HEADS.search(re.sub(r"\([^()]*\)", "", signature)) and not re.search(
            r"\)\s*(const|noexcept|override|final|\s)*$", signature):
        return "scope"
    if "extern" in words and "(" not in head:
        return "scope"
    if "(" not in head:
        return "skip"
    last = re.search(r"(\w+|[^\w\s])\s*$", head).group(1)
    member_list = re.search(r"\)\s*(noexcept\s*)?:[^:]", head)
    if member_list and last not in _AFTER_SIGNATURE and last not in (")", "}"):
        return "skip"
    if last in ("=", ",", "(", "return"):
        return "skip"
    return "function"


def _function(code, opened, end):
    start, head = opened
    start += len(head) - len(head.lstrip())
    flat = " ".join(head.split())
    test = re.match(r"(?:TYPED_)?TEST(?:_[FP])?\s*\(\s*(\w+)\s*,\s*(\w+)", flat)
    if test:
        name = f"{test.group(1)}.{test.group(2)}"
    else:
        named = re.search(r"([~\w:]+|operator\s*\S+)\s*\(", flat)
        name = named.group(1) if named else "?"
    first = code.count("\n", 0, start) + 1
    return Function(name, first, code.count("\n", 0, end) + 1)
