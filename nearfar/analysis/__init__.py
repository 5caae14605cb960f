"""What an encoder's vectors are good for: finding, sorting, cleaning and mapping images."""
