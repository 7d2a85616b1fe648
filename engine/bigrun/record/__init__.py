"""What a run has left in its directory so far, for whoever looks at it; nothing is ever written there."""
