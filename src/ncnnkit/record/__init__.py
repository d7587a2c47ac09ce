"""The result of a run: run.json and the run folder."""
