"""An MCP proxy that pauses dangerous or unusual tool calls until they are proven."""

from __future__ import annotations

__version__: str


def __getattr__(name: str) -> str:
    """Look the version up when somebody asks: it takes longer than the rest of a short command."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - see above

        return version("mcp-step-up-guard")
    raise AttributeError(name)
