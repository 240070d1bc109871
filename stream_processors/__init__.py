"""Stream jobs as pure classes, the checkpoint, and one Faust door."""
