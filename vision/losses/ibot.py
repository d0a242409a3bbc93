"""The loss of masked patches of iBOT (Zhou et al. 2021, arXiv:2111.07832), weighted as in DINOv2 (arXiv:2304.07193)."""

from torch import Tensor, nn

from .centre import Centring
from .cross_entropy import soft_cross_entropy

__all__ = ["IBOTLoss"]


class IBOTLoss(nn.Module):
    """Cross-entropy between the teacher's view of a patch and the student's, who saw a mask in its place.

    Every masked image counts alike, however many of its patches are masked; images without masked patches count as 0.

    Args:
        centring: makes targets of the teacher's logits; updated after each loss.
        temperature: of the student.
    """

    def __init__(self, centring: Centring, temperature: float = 0.1) -> None:
        super().__init__()
        self.centring = centring
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, masked: Tensor, temperature: float) -> Tensor:
        """Return the mean over images of the mean over their masked patches.

        Args:
            student: logits (N, K) of the masked patches, image by image.
            teacher: logits (N, K) of the same patches.
            masked: (B, patches) bool with N times True.
            temperature: of the teacher.
        """
        losses = soft_cross_entropy(student, self.centring(teacher, temperature), self.temperature)
        self.centring.update(teacher)
        weights = masked / masked.sum(1, keepdim=True).clamp(min=1)  # (B, patches)
        return (losses * weights[masked]).sum() / len(masked)
