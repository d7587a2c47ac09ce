"""Everything that runs on a board: Python 3.9, the standard library, numpy and ncnn; nothing else of ncnnkit.

==========  ===============================================================
module      what is in it
==========  ===============================================================
__main__    the folder as a program: serve, job, agent
agent       keeps files and jobs on a board
messages    what a serving process and its parent say to each other
reading     what a process prints, from its mark on
child       a serving process, seen from outside
casts       whether a mixed network's Casts read what they expect
serving     the command serve
picture     from an image's pixels to a network's input
network     what a serving process answers: runs, times and counts
tally       histograms that merge
rows        arrays on disk, written and read row by row
jobs        the kinds of jobs
measuring   the job measure
profiling   the job profile
tuning      the job tune
variants    how a variant is loaded, and what is done around timing it
protocol    what jobs answer with
facts       what a machine reports about itself and of what was timed on it
machine     what this machine is
process     what a process can do to itself: its CPUs, its memory, its end
sysfs       the files of /proc and /sys that the next four read
clusters    cores by type and clock
sensors     thermometers and power meters
clocks      clocks held at their highest
sampler     clocks, temperatures, power and throttling while something runs
==========  ===============================================================
"""

MARK = b"\x1encnnkit\x1e\n"
"""Printed before anything else by what runs on a board. A login shell may have printed a greeting before it."""
