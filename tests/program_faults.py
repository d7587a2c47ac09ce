"""Checks for programs of apps: with a wrong input, a program ends with one line that says what is wrong."""

from __future__ import annotations

from subprocess import CompletedProcess


def check_fault(done: CompletedProcess[str], match: str, status: int = 1) -> None:
    """Check how a program ended: its exit code, one line with ``match`` on stderr, and nothing on stdout."""
    assert done.returncode == status, f"{done.returncode}: {done.stderr}"
    assert done.stderr.startswith("infer: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert match in done.stderr
    assert done.stdout == ""
