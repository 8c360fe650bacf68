"""What work costs: the meter, the ledger, device profiles and links."""
