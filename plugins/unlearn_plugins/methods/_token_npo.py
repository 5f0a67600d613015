"""The weight that TNPO and WTNPO share."""

from torch import Tensor

from unlearn_cli.api.scores import Scores


def npo_weight(forget: Scores, reference: Scores, beta: float) -> Tensor:
    """(N,) 2 p^beta / (p^beta + p_ref^beta) of each answer token, between 0 and 2, constant.

    As a sigmoid of log-probabilities, where nothing overflows and no 0 / 0 can arise.
    """
    log_ratio = forget.token_logp - reference.token_logp  # (N,) nats
    return 2 * (beta * log_ratio).sigmoid().detach()
