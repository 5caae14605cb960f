"""The parts of an evaluation beyond k-NN and the linear classifier, each a small file, asked for by flag.

What a part needs is a `Reader`, fitted, and the test images as it has `Seen` them; what it gives has two
faces, `to_json` for programs and `lines` for people. `tuning` trains instead, by gradient steps.
"""
