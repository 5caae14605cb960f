"""Interfaces of other libraries, such as scikit-learn."""
