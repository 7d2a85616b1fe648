"""The indicators in words: what each is, and what is healthy."""

from __future__ import annotations

from bigrun_features.config import HealthConfig
from bigrun_features.measured import Measured
from bigrun_features.norms import GRADIENT

__all__ = ["CURVES", "METRIC", "healthy", "ordered", "title"]

METRIC = "health/"
"""In front of an indicator's name, as a metric."""
TITLES = {
    "class_spread": "how much class tokens of different images differ",
    "rank_me": "dimensions that class tokens use (RankMe)",
    "rank_fraction": "RankMe over what is possible",
    "patch_cosine": "how alike the patches of an image are",
    "class_patch_cosine": "how alike class token and patches are",
    "koleo": "how close the nearest class tokens are (KoLeo)",
    "target_entropy_fraction": "entropy of the teacher's targets over ln K",
    "teacher_entropy_fraction": "entropy of the teacher's own answers over ln K",
    "student_entropy_fraction": "entropy of the student's predictions over ln K",
    "marginal_entropy_fraction": "entropy of the mean target over ln K",
    "student_divergence": "divergence of the student from the targets, nat",
    "prototypes_used_fraction": "prototypes that some image prefers",
}
CURVES = {
    "Class tokens and patches, of the fixed images": (
        "class_spread", "rank_fraction", "class_patch_cosine", "patch_cosine",
    ),
    "KoLeo, of the fixed images by the teacher": ("koleo",),
    "Entropies over ln K, of the fixed images": (
        "target_entropy_fraction", "teacher_entropy_fraction", "student_entropy_fraction", "marginal_entropy_fraction",
    ),
    "Divergence of the student, of the fixed images, nat": ("student_divergence",),
    "Prototypes in use, of the fixed images": ("prototypes_used_fraction",),
}  # fmt: skip


def title(name: str) -> str:
    if name.startswith(GRADIENT):
        return f"gradient norm of {name.removeprefix(GRADIENT)} over its median"
    return TITLES[name]


def ordered(measured: Measured) -> list[str]:
    """The indicators that are known, features first."""
    return [name for name in TITLES if name in measured.values] + [n for n in measured.values if n not in TITLES]


def healthy(name: str, config: HealthConfig, measured: Measured) -> str:
    """Where nothing is said of it; `-` for one that is not judged by itself."""
    if name.startswith(GRADIENT):
        return f"below {config.gradient_factor:g}"
    rank = max(measured.least_rank_fraction(config.rank_fraction[0]), config.rank_fraction[1])
    limits = {
        "class_spread": f"above {config.class_spread[0]:g}",
        "rank_fraction": f"above {rank:.2g}",
        "rank_me": f"above {rank * min(measured.images, measured.width):.3g}",
        "patch_cosine": f"below {config.patch_cosine[0]:g}",
        "class_patch_cosine": f"below {config.class_patch_cosine:g}, not rising",
        "koleo": f"below {config.koleo[0]:g}",
        "target_entropy_fraction": f"{measured.entropy_floor_fraction + 0.02:.2f} to {config.entropy_fraction[0]:g}",
        "student_entropy_fraction": f"below {config.entropy_fraction[0]:g}",
        "marginal_entropy_fraction": (
            f"above {config.marginal_entropy_fraction[0] * measured.marginal_ceiling_fraction:.2f}"
        ),
        "student_divergence": f"above {config.student_divergence[0]:g}",
        "prototypes_used_fraction": f"above {config.prototypes_used_fraction[0]:g}",
    }
    if name in ("rank_me", "rank_fraction") and not measured.has_enough:
        return f"not judged: {measured.images} images, {measured.images_for_rank} are needed"
    return limits.get(name, "-")
