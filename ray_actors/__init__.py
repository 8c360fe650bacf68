"""The harness on Ray: thin actors over plain classes. The only package that imports ray."""
