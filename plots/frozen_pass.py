"""Figures of studies/frozen_pass.py: python plots/frozen_pass.py RUN_FOLDER …"""

from plots.command_line import main
from plots.learning_curves import draw_accuracy as draw

__all__ = ["draw"]

if __name__ == "__main__":
    main("frozen_pass", draw, __doc__)
