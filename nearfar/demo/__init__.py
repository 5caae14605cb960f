"""The demo: pictures drawn here, and the whole way on them."""
