"""The tool server of the story: deploys versions to environments. deploy_server.py FOLDER

Every deployment that happens is a line of FOLDER/deployed.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("deploy")
deployed = Path(sys.argv[1]) / "deployed.csv"


@server.tool()
def status() -> str:
    """Say what runs where."""
    return deployed.read_text() if deployed.exists() else "nothing was deployed yet"


@server.tool()
def deploy(service: str, version: str, environment: str) -> str:
    """Replace what runs in an environment by a version of a service."""
    with deployed.open("a") as file:
        file.write(f"{service},{version},{environment}\n")
    return f"{service} {version} runs in {environment}"


if __name__ == "__main__":
    server.run("stdio")
