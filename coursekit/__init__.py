"""What the lessons stand on: data on the device, backbones, training, scores, figures and checks. Holds no answer."""

__version__ = "0.1.0"
