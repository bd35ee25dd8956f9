//! Virtual machines: starting them, talking to the agent in them, and making sure they end.
