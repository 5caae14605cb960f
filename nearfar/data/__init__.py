"""Images in: finds, reads, checks and keeps them, from whatever a user calls "my images"."""
