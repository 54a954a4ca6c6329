"""An MCP proxy that pauses dangerous or unusual tool calls until they are proven."""

from importlib.metadata import version

__version__ = version("mcp-step-up-guard")
