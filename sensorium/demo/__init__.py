"""What `make demo` runs: real speech and real images on embedded defaults, and a report with pictures."""
