"""What is special to images: decoding, colour modes, augmentation."""
