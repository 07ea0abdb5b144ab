"""Who may connect to the daemons, and what each may ask: keys, roles, and where sockets may be bound."""
