"""What image-text models are trained on: each loss with its gradients exact, and without what it need not keep."""

from .cached import cached
from .captioning import captioning
from .contrastive import info_nce
from .distill import distill
from .measure import measured_loss
from .sigmoid import siglip

__all__ = ["cached", "captioning", "distill", "info_nce", "measured_loss", "siglip"]
