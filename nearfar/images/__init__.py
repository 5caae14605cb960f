"""What is specific to images: decoding, colour modes, augmentation."""
