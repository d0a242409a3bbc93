"""Training through Lightning: the base task, optimizer, schedule, weight average, exact resuming, the command line.

The one room of ``core`` that imports Lightning.
"""
