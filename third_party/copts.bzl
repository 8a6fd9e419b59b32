"""Compiler options for Fathom's own code. Libraries' headers sit on the system path and stay quiet."""

FATHOM_COPTS = [
    "-Wall",
    "-Wextra",
    "-Wshadow",
    # A coordinate loop compares int with size() everywhere; the ranges are checked where they enter.
    "-Wno-sign-compare",
    "-Werror",
]
