"""An objective for bigrun: `masked-reconstruction`."""
