"""What tool owners do with policies before they take effect."""
