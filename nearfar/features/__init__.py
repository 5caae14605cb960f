"""Images to vectors, and exact tools on vectors: k-NN, logistic regression. No encoder is trained here."""
