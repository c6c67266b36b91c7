"""ComfyUI's `comfy.supported_models`: names of model configurations."""

from comfy import supported_models_base
from comfy.supported_models_base import BASE

_NAMES = """
    SD15 SD20 SD21UnclipL SD21UnclipH SDXLRefiner SDXL SSD1B Segmind_Vega KOALA_700M KOALA_1B SVD_img2vid
    SV3D_u SV3D_p Stable_Zero123 SD_X4Upscaler Stable_Cascade_C Stable_Cascade_B SD15_instructpix2pix
    SDXL_instructpix2pix LotusD SD3 StableAudio AuraFlow PixArtAlpha PixArtSigma HunyuanDiT HunyuanDiT1
    Flux FluxInpaint FluxSchnell GenmoMochi LTXV HunyuanVideo HunyuanVideoI2V CosmosT2V CosmosI2V
    CosmosT2IPredict2 Lumina2 WAN21_T2V WAN21_I2V WAN22_T2V Hunyuan3Dv2 HiDream Chroma ACEStep Omnigen2
    QwenImage
"""
for _name in _NAMES.split():
    globals()[_name] = type(_name, (BASE,), {"__module__": __name__})
models = [globals()[name] for name in _NAMES.split()]
__all__ = ["models", "supported_models_base", *_NAMES.split()]
