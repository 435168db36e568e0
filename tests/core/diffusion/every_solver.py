"""Every fixed-step solver with the recursion that it follows on Gaussian data."""

from __future__ import annotations

from dataclasses import dataclass

from core.diffusion.solvers.kinds import SolverName
from core.diffusion.solvers.levels import DEFAULTS, ChurnConfig, CorrectorConfig, Options, RestartConfig
from tests.core.diffusion import noisy_recursions as noisy
from tests.core.diffusion import recursions as plain
from tests.core.diffusion.recursions import Recursion


@dataclass(frozen=True)
class Case:
    solver: SolverName
    recursion: Recursion
    options: Options = DEFAULTS


def _all() -> dict[str, Case]:
    corrector = CorrectorConfig(steps=2, size=0.2)
    little, much = ChurnConfig(amount=3), ChurnConfig(amount=40, low=0.05, high=2.0, noise=1.003)
    restart = RestartConfig(high=0.6, low=0.2, times=3)
    found = {
        "euler": Case("euler", plain.ddim(0)),
        "ddpm large": Case("ddpm", plain.ancestral(1), Options(variance="large")),
        "ddpm": Case("ddpm", plain.ancestral(0)),
        "renoise": Case("renoise", plain.first_order(plain.renoised)),
        "sde_dpmpp": Case("sde_dpmpp", plain.first_order(plain.sde)),
        "sde_dpmpp_2m": Case("sde_dpmpp_2m", plain.sde_multistep),
        "heun": Case("heun", plain.runge_kutta("heun")),
        "midpoint": Case("midpoint", plain.runge_kutta("midpoint")),
        "rk4": Case("rk4", plain.runge_kutta("rk4")),
        "dpmpp_2m": Case("dpmpp_2m", plain.multistep("2m")),
        "dpmpp_2s": Case("dpmpp_2s", plain.single_step),
        "dpmpp_3m": Case("dpmpp_3m", plain.multistep("3m")),
        "dpmpp_3m_diffusers": Case("dpmpp_3m_diffusers", plain.multistep("3m_diffusers")),
        "unipc_1": Case("unipc_1", plain.unipc(1)),
        "unipc_2": Case("unipc_2", plain.unipc(2)),
        "unipc_3": Case("unipc_3", plain.unipc(3)),
        "edm": Case("edm", noisy.churned(little), Options(churn=little)),
        "edm much": Case("edm", noisy.churned(much), Options(churn=much)),
        "restart": Case("restart", noisy.restarted(restart), Options(restart=restart)),
    }
    for eta in (0.0, 0.4, 1.0):
        found[f"ddim {eta:g}"] = Case("ddim", plain.ddim(eta), Options(eta=eta))
    for share in (0.3, 0.7):
        options = Options(variance="interpolated", variance_share=share)
        found[f"ddpm {share:g}"] = Case("ddpm", plain.ancestral(share), options)
    for eta in (0.3, 1.0):
        found[f"euler_maruyama {eta:g}"] = Case("euler_maruyama", noisy.maruyama(eta), Options(eta=eta))
    for eta in (0.0, 0.6):
        options = Options(eta=eta, corrector=corrector)
        found[f"langevin {eta:g}"] = Case("langevin", noisy.corrected(eta, corrector), options)
    return found


CASES = _all()
