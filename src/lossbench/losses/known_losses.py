"""What is known of losses by name: their weights, activations and terms. All else is measured."""

# Arguments that hold weights of classes: a list of numbers is made a tensor, as $weights are.
WEIGHT_KEYS = ("weight", "weights", "class_weight", "class_weights")
# It takes a weight per class also without the background, for its cross-entropy.
WEIGHTS_OF_ALL_CLASSES = ("monai.losses.DiceCELoss",)
# A loss that is looked at before the training and never called in it.
NOT_CALLED = ("match",)

# What a loss calls to turn logits into probabilities: over the classes, or class by class.
SOFTMAX = (
    *("softmax", "log_softmax", "special_softmax", "special_log_softmax", "gumbel_softmax"),
    "cross_entropy",
)
SIGMOID = (
    *("sigmoid", "special_expit", "log_sigmoid", "logsigmoid", "binary_cross_entropy_with_logits"),
    *("multilabel_soft_margin_loss", "sigmoid_focal_loss"),
)
ACTIVATION_ARGUMENTS = ("softmax", "from_logits", "use_softmax")  # for messages: set to true

# Losses of classes that exclude each other, and why: not for regions that overlap.
EXCLUSIVE = {
    "WassersteinDiceLoss": "measures distances from class to class, of which a voxel has one",
    "GeneralizedWassersteinDiceLoss": "measures distances from class to class",
    "NeighborAwareLoss": "takes the softmax over classes, of which a voxel has one",
    "NACLLoss": "takes the softmax over classes, of which a voxel has one",
}

# MONAI's sums of two losses that treat a batch differently: factor and loss by attribute. Dice
# scores each sample, the other takes the mean over all pixels, also where samples have different
# numbers.
TERMS = {
    "DiceCELoss": {"lambda_dice": "dice", "lambda_ce": "cross_entropy"},
    "DiceBCELoss": {"lambda_dice": "dice", "lambda_ce": "cross_entropy"},
    "DiceFocalLoss": {"lambda_dice": "dice", "lambda_focal": "focal"},
    "GeneralizedDiceFocalLoss": {"lambda_gdl": "generalized_dice", "lambda_focal": "focal"},
}
# Attributes of MONAI's DiceLoss with which it is a function of sums per class.
SYNC_FREE_DICE = {
    "other_act": (None,),
    "ignore_index": (None,),
    "to_onehot_y": (False, None),
    "soft_label": (False, None),
    "reduction": ("mean", "sum"),
}
