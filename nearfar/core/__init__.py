"""Words that everything may use: errors, randomness by name, settings, progress, processes, files, device."""
