"""What all other folders use: errors, randomness by name, settings, progress, processes, files, device."""
