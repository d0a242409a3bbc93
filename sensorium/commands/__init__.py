"""One file for each command of the front door; heavy imports happen inside the functions."""
