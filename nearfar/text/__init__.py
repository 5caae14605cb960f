"""What is specific to texts: how they are read, split into tokens, changed into views, and encoded."""
