"""What a shape costs: pure functions of (shape, workload, hardware)."""
