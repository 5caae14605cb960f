"""Settings, recipes, the loop, the run folder, pretraining."""
