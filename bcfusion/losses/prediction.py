"""Losses on what a network predicts on a path between sensor and target."""

from __future__ import annotations

from torch import Tensor, nn


class PredictionMseLoss(nn.Module):
    """Squared error of the prediction, mean over the places of an item, then over items.

    Of a flow it is conditional flow matching (Lipman et al. 2023, "Flow matching for generative modeling", eq. 9); of
    one that predicts the target, the squared error in the domain of the path.
    """

    def forward(self, prediction: Tensor, prediction_target: Tensor, prediction_mask: Tensor) -> Tensor:
        """Return a float32 scalar from prediction and target, both ``(B, ..., N)``, and the mask ``(B, N)`` of places.

        An item without places counts as 0.

        Raises:
            ValueError: other shapes.
        """
        batch, places = prediction.shape[0], prediction.shape[-1]
        if prediction.shape != prediction_target.shape or prediction_mask.shape != (batch, places):
            shapes = tuple(prediction.shape), tuple(prediction_target.shape), tuple(prediction_mask.shape)
            raise ValueError(f"prediction and its target must be (B, ..., N), and the mask (B, N), not {shapes}")
        error = (prediction.float() - prediction_target.float()).square().flatten(1, -2).mean(1)
        valid = error.masked_fill(~prediction_mask, 0.0).sum(-1)
        return (valid / prediction_mask.sum(-1).clamp_min(1)).mean()
