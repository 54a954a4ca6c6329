"""The tool server of the framework stories: invoices to read, and refunds that move money.

payments.py FOLDER. Every refund that is paid is a line of FOLDER/refunds.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mcp.server.mcpserver import MCPServer

server = MCPServer("payments")
paid = Path(sys.argv[1]) / "refunds.csv"


@server.tool()
def list_invoices() -> str:
    """List the invoices of this month."""
    return "invoice 7: 90 EUR, invoice 8: 120 EUR"


@server.tool()
def refund(invoice: int, amount: int) -> str:
    """Pay money back to the customer of an invoice."""
    with paid.open("a") as file:
        file.write(f"{invoice},{amount}\n")
    return f"refunded {amount} EUR of invoice {invoice}"


if __name__ == "__main__":
    server.run("stdio")
