"""Scripts that reproduce the paper's tables and figures, and make ours."""
