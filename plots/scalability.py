"""Figures of studies/scalability.py: python plots/scalability.py RUN_FOLDER …"""

from plots.common.command_line import main
from plots.common.learning_curves import draw_accuracy as draw

__all__ = ["draw"]

if __name__ == "__main__":
    main("scalability", draw, __doc__)
