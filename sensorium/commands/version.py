"""``sensorium version``."""

__all__ = ["version"]


def version() -> None:
    """Print the versions of sensorium, Python and PyTorch."""
    import platform
    from importlib.metadata import version as version_of

    print(f"sensorium {version_of('sensorium')}, Python {platform.python_version()}, torch {version_of('torch')}")
