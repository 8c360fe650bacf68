"""How models learn: the one local loop, evaluation, aggregation, seeding."""
