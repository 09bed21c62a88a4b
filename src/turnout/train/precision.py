"""Which dtype the matrix products run in; weights and optimiser state are float32 always."""

import torch

from turnout.config.errors import UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def compute_dtype(name: str, device: torch.device) -> tuple[torch.dtype, str]:
    """The dtype of a configuration's name, and why.

    ``auto`` is bfloat16 where the hardware multiplies it natively: AVX512-BF16 or AMX on a CPU, or
    an accelerator that says so; elsewhere bfloat16 is emulated, and float32 is faster.
    """
    if name in _DTYPES:
        return _DTYPES[name], "as configured"
    if name != "auto":
        raise UserError(f"train.dtype = {name!r}: must be auto, float32 or bfloat16")
    native, why = native_bfloat16(device)
    return (torch.bfloat16 if native else torch.float32), why


def native_bfloat16(device: torch.device) -> tuple[bool, str]:
    """Whether ``device`` has bfloat16 products in hardware, and the feature that says so."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported, "the accelerator has bfloat16" if supported else "no bfloat16 on it"
    if device.type != "cpu":
        return False, f"nothing is known of {device.type}"
    features = torch.cpu.get_capabilities()
    for feature in ("amx_bf16", "amx_tile", "avx512_bf16"):
        if features.get(feature):
            return True, f"the CPU has {feature}"
    return False, "the CPU has neither AVX512-BF16 nor AMX"
