"""Losses that two or more methods share. Tensors in, tensors out."""
from losses.consistency import (
    contested,
    eased_mse,
    sharpened,
    sigmoid_kl,
    sigmoid_mse,
    softmax_kl,
    softmax_mse,
    standardised,
    standardised_mse,
    symmetric_kl,
)
from losses.overlap import (
    cross_entropy,
    dice_loss,
    dice_per_class,
    masked_dice,
    pixel_weighted_cross_entropy,
    pixel_weighted_dice,
    plain_dice,
    softmax_dice,
    unsquared_dice_loss,
)
from losses.ranks import batch_mean, batch_sum, batch_sums
from losses.similarity import similarity_loss, similarity_map, symmetric_similarity_loss
from losses.supervised import focal_loss, labels_loss, ohem_cross_entropy, supervised_loss
from losses.uncertainty import entropy_bits, entropy_map

__all__ = [
    "batch_mean", "batch_sum", "batch_sums", "contested", "cross_entropy", "dice_loss", "dice_per_class", "eased_mse", "entropy_bits",
    "entropy_map", "focal_loss", "labels_loss", "masked_dice", "ohem_cross_entropy", "pixel_weighted_cross_entropy",
    "pixel_weighted_dice", "plain_dice", "sharpened", "sigmoid_kl", "sigmoid_mse", "similarity_loss", "similarity_map", "softmax_dice",
    "softmax_kl", "softmax_mse", "standardised", "standardised_mse", "supervised_loss", "symmetric_kl", "symmetric_similarity_loss",
    "unsquared_dice_loss",
]
