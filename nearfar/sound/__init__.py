"""Sound: reading, log-mel spectrograms, views, and encoders."""
