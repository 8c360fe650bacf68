"""Who does what: fleets, round plans, policies."""
