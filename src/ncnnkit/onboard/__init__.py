"""Everything that runs on a board: Python 3.9, the standard library, numpy and ncnn; nothing else of ncnnkit.

==========  ===============================================================
module      content
==========  ===============================================================
__main__    the folder as a program: serve, job, agent
agent       keeps files and jobs on a board
answers     the answers of a serving process
messages    the messages between a serving process and its parent
reading     reads what a process prints after its mark
userfiles   opens the files that a user gives
child       the parent's side of a serving process
storages    checks the storage types of a network's blobs before it runs
serving     the command ``serve``
engines     engines other than ncnn
picture     from an image's pixels to a network's input
network     the network of a serving process: runs, times and counts
tally       histograms that can be merged
records     JSON objects as dataclasses, without checks
scratch     temporary folders
rows        arrays on disk, written and read row by row
jobs        the kinds of jobs
measuring   the job measure
profiling   the job profile
tuning      the job tune
variants    loads a variant, and prepares and watches its timing
protocol    jobs, their progress and their results
facts       what a machine reports about itself and about a timing
machine     reads the facts about this machine
process     the CPUs, memory and signals of this process
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
