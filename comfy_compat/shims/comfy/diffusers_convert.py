"""ComfyUI's `comfy.diffusers_convert`: the server's loaders read diffusers' names themselves."""


def convert_unet_state_dict(unet_state_dict):
    return unet_state_dict


def convert_vae_state_dict(vae_state_dict):
    return vae_state_dict


def convert_text_enc_state_dict(text_enc_dict):
    return text_enc_dict
