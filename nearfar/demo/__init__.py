"""The demo: pictures with known answers, and every step of the tool on them."""
