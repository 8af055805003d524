"""What a kernel inside a sandbox knows from its first cell (PYTHONSTARTUP): why packages cannot be installed here."""

try:
    from IPython import get_ipython as _shell
except ImportError:
    _shell = lambda: None  # noqa: E731

if _shell() is not None:

    def _no_packages(_line: str) -> None:
        print(
            "Packages cannot be installed here: a sandbox has no network and its Python is read-only.\n"
            "  → `%pip` is off. Ask the people who run this site to add the package; they pin and check each one."
        )

    for _name in ("pip", "uv", "conda", "mamba", "micromamba"):
        _shell().register_magic_function(_no_packages, "line", _name)
    del _name, _no_packages
del _shell
