"""The demo: images with known answers, and every step of the tool on them."""
