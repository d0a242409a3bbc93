"""AdamW for bfloat16 weights: it steps float32 copies of them, so that no small update is lost to rounding.

A bfloat16 weight has 8 significant bits: an update below 1/512 of the weight changes nothing. Micikevicius et al. 2017
(arXiv:1710.03740), section 3.1, therefore keep master weights in float32.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.adamw import adamw

__all__ = ["MasterAdamW"]


class MasterAdamW(torch.optim.AdamW):
    """:class:`torch.optim.AdamW` whose weights and moments are float32, whatever the type of the model's.

    The first step takes its copies from the model; from then on the model's weights are the copies, rounded. Whoever
    sets the model's weights in between makes a new optimizer. The arguments are AdamW's; no closure is called.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step the copies by the model's gradients, and round them into the model."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for some in _turns([p for p in group["params"] if p.grad is not None]):
                self._move(some, group)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the copies and moments in float32, where PyTorch would round them to the type of the weights."""
        super().load_state_dict(state_dict)
        saved = [number for group in state_dict["param_groups"] for number in group["params"]]
        mine = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(saved, mine, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                device = value.device if name == "step" and value.device.type == "cpu" else p.device
                self.state[p][name] = value.detach().clone().to(device=device, dtype=torch.float32)

    def _move(self, some: list[Tensor], group: dict[str, Any]) -> None:
        """One step of some weights."""
        states = [self._state(p) for p in some]
        masters = [state["master"] for state in states]
        adamw(
            masters,
            [p.grad.float() for p in some if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"] is not False,  # one pass over each tensor
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
        torch._foreach_copy_(some, masters)

    def _state(self, p: Tensor) -> dict[str, Tensor]:
        state = cast(dict[str, Tensor], self.state[p])
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["master"] = p.detach().to(torch.float32, copy=True)
            state["exp_avg"] = torch.zeros_like(state["master"])
            state["exp_avg_sq"] = torch.zeros_like(state["master"])
        return state


def _turns(trained: list[Tensor]) -> list[list[Tensor]]:
    """Which weights step together: on a processor each by itself, while it is in the cache; elsewhere all at once."""
    near = [p for p in trained if p.device.type == "cpu"]
    far = [p for p in trained if p.device.type != "cpu"]
    return [[p] for p in near] + ([far] if far else [])
