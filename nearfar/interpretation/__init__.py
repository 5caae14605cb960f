"""What an encoder's features see: the parts behind a similarity, invariances, a sparse dictionary."""
