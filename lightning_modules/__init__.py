"""Networks and their losses: torch and Lightning alone, to be taken away and used anywhere."""
