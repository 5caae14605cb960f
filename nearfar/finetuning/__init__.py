"""Training with labels: a linear layer on a frozen encoder, fine-tuning, or from scratch."""
