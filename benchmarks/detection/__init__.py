"""How well `edgeloop model fit`, left to its own choices, detects what is labelled in real recordings."""
