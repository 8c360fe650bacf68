"""How a run goes: the method contract, the engine that runs rounds, the files and sinks that receive them."""
