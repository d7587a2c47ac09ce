"""What a run found: run.json, the run folder, the recommendation and the warnings."""
