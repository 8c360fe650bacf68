"""Edge FL Harness: federated learning on weak devices, on one ledger of FLOPs, bytes, seconds and joules."""

__version__ = "0.1.0"
