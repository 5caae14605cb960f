"""Input data: finds, reads, checks and caches images, from every form of DATA."""
