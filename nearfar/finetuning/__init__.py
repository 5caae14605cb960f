"""Training an encoder on with labels."""
