"""Background jobs: imports, the engine that works on them, and the messages that tell workers about them."""
