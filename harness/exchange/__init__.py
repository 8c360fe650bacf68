"""How things travel: payloads, the client's one door, transports, the cohort that charges every exchange."""
