"""Everything that runs on a board: Python 3.9, the standard library, numpy and ncnn; nothing else of ncnnkit.

==========  ===============================================================
module      what is in it
==========  ===============================================================
__main__    the folder as a program: serve, job, agent
agent       keeps files and jobs on a board
messages    what a serving process and its parent say to each other
reading     what a process prints, from its mark on
userfiles   files that a user gives: which are opened, and how much is read
child       the parent's side of a serving process
casts       whether a mixed network's Casts read what they expect
serving     the command ``serve``
picture     from an image's pixels to a network's input
network     what a serving process does: runs, times and counts
tally       histograms that can be merged
rows        arrays on disk, written and read row by row
jobs        the kinds of jobs
measuring   the job measure
profiling   the job profile
tuning      the job tune
variants    how a variant is loaded, and what is done around timing it
protocol    jobs, their progress and their results
facts       what a machine reports about itself and about a timing
machine     reads what this machine is
process     a process' own CPUs, memory and signals
sysfs       the files of /proc and /sys that the next four read
clusters    cores by type and clock
sensors     thermometers and power meters
clocks      clocks held at their highest
sampler     clocks, temperatures, power and throttling during a run
==========  ===============================================================
"""

import os

SILENT = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
"""Environment variables that keep libraries from reporting their use to their makers.

ONNX Runtime does so since 1.29, and reads its variable once, when it is imported. So these are set here: whatever of
ncnnkit runs, on this machine, in its children or on a board, imports this package first. A value of the user's stays.
"""
for _name, _value in SILENT.items():
    os.environ.setdefault(_name, _value)

MARK = b"\x1encnnkit\x1e\n"
"""The first output of a program on a board. A login shell may have printed a greeting before it."""
