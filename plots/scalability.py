"""Figures of studies/scalability.py: python plots/scalability.py RUN_FOLDER …"""

from plots.command_line import main
from plots.learning_curves import draw_accuracy as draw

__all__ = ["draw"]

if __name__ == "__main__":
    main("scalability", draw, __doc__)
