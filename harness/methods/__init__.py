"""One file per method. Each opens with its paper, the equations used, what differs and why."""
