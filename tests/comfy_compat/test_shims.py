"""ComfyUI's modules, as packs import them."""

import importlib

import pytest
import torch

TIER_1 = """
    folder_paths.get_filename_list comfy.model_management.get_torch_device folder_paths.get_full_path
    comfy.utils.load_torch_file comfy.utils.common_upscale comfy.model_patcher.ModelPatcher
    folder_paths.models_dir nodes.MAX_RESOLUTION server.PromptServer folder_paths.folder_names_and_paths
    comfy.samplers.KSampler.SAMPLERS comfy.utils.ProgressBar comfy.samplers.KSampler.SCHEDULERS
    comfy_api.latest.io.NodeOutput comfy_api.latest.io.Schema comfy_api.latest.io.ComfyNode
    folder_paths.get_save_image_path nodes.CLIPTextEncode comfy.cli_args.args nodes.VAEEncode
    comfy.sd.load_lora_for_models comfy_api.latest.io.Model comfy.model_management.unet_offload_device
    comfy.ldm.modules.attention.optimized_attention nodes.LoraLoader comfy.samplers.CFGGuider
    comfy_api.latest.io.Custom comfy.sd.load_checkpoint_guess_config node_helpers.conditioning_set_values
    comfy_api.latest.ComfyExtension folder_paths.supported_pt_extensions comfy.sd.VAE comfy.sd.CLIP
    comfy.model_base.BaseModel nodes.PreviewImage comfy.comfy_types.node_typing.IO
    comfy.sampler_helpers.convert_cond comfy.samplers.KSAMPLER nodes.SaveImage
    comfy_extras.nodes_upscale_model.ImageUpscaleWithModel folder_paths.get_directory_by_type
"""


@pytest.mark.usefixtures("comfy")
def test_what_most_packs_use_can_be_imported():
    for symbol in TIER_1.split():
        parts = symbol.split(".")
        depth = next(i for i in range(len(parts), 0, -1) if _imports(".".join(parts[:i])))
        found = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            found = getattr(found, part)


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True


def test_folders_that_a_pack_adds_are_searched_by_the_server(comfy, tmp_path):
    import folder_paths

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.safetensors").write_bytes(b"")
    folder_paths.add_model_folder_path("loras", str(mine))
    assert folder_paths.get_filename_list("loras") == ["a.safetensors"]
    assert comfy.storage.files("loras") == ["a.safetensors"]
    assert folder_paths.get_full_path("loras", "a.safetensors") == str(mine / "a.safetensors")
    assert folder_paths.get_full_path("loras", "b.safetensors") is None
    assert folder_paths.get_full_path("loras", "../../x") is None


@pytest.mark.usefixtures("comfy")
def test_names_to_save_under_count_on_and_stay_inside(tmp_path):
    import folder_paths

    out = folder_paths.get_output_directory()
    (tmp_path / "output" / "a_00007_.png").write_bytes(b"")
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path("a", out)
    assert (folder, name, counter, subfolder) == (f"{out}/", "a", 8, "")
    assert folder_paths.get_save_image_path("b/c%width%", out, 64)[1:4] == ("c64", 1, "b")
    with pytest.raises(Exception, match="outside the output folder"):
        folder_paths.get_save_image_path("../x", out)


@pytest.mark.usefixtures("comfy")
def test_tiles_are_blended_to_what_the_whole_gives():
    import comfy.utils

    picture = torch.rand(2, 3, 40, 56)
    double = torch.nn.Upsample(scale_factor=2, mode="nearest")
    tiled = comfy.utils.tiled_scale(picture, double, 16, 16, 4, upscale_amount=2)
    assert torch.allclose(tiled, double(picture), atol=1e-5)


@pytest.mark.usefixtures("comfy")
def test_built_in_nodes_are_classic_classes():
    import nodes

    image = torch.rand(1, 8, 8, 3)
    inverted = nodes.NODE_CLASS_MAPPINGS["ImageInvert"]().invert(image)[0]
    assert torch.equal(inverted, 1.0 - image)
    assert nodes.EmptyLatentImage().generate(64, 32)[0]["samples"].shape == (1, 4, 4, 8)
    assert nodes.VAEDecode.INPUT_TYPES()["required"]["vae"][0] == "VAE"
    assert nodes.KSampler.FUNCTION == "sample"
    assert nodes.NODE_CLASS_MAPPINGS["KSampler"] is nodes.KSampler


@pytest.mark.usefixtures("comfy")
def test_model_work_outside_of_a_node_says_why_it_can_not_be(tmp_path):
    import nodes
    from backend.components import Weights
    from backend.references import Vae
    from comfy_compat.engine import OutsideCall
    from comfy_compat.vae import VAE

    vae = VAE.of(Vae(Weights("vae", "digest", ())))
    with pytest.raises(OutsideCall, match="inside the node's function"):
        nodes.VAEDecode().decode(vae, {"samples": torch.zeros(1, 4, 8, 8)})


@pytest.mark.usefixtures("comfy")
def test_previews_are_saved_where_a_subclass_says(tmp_path):
    import nodes

    class Mine(nodes.SaveImage):
        def __init__(self):
            super().__init__()
            self.output_dir, self.type = str(tmp_path / "temp"), "temp"

    shown = Mine().save_images(torch.zeros(2, 4, 4, 3), "p")["ui"]["images"]
    assert shown == [{"filename": f"p_{n:05}_.png", "subfolder": "", "type": "temp"} for n in (1, 2)]
    assert (tmp_path / "temp" / "p_00002_.png").is_file()


@pytest.mark.usefixtures("comfy")
def test_routes_of_packs_are_on_the_running_servers_table():
    from comfy_compat.install import prompt_server

    server = prompt_server(None, None)

    @server.routes.get("/mine")
    async def mine(request): ...

    assert [route.path for route in server.routes] == ["/mine"]
    assert server.client_id is None


def test_what_packs_push_goes_to_the_messenger(comfy):
    from comfy_compat.install import prompt_server

    class Ear:
        def __init__(self):
            self.heard = []

        def send(self, event, data, sid):
            self.heard.append((event, data, sid))

    comfy.messenger = Ear()
    prompt_server(None, None).send_sync("mine.event", {"a": 1}, "client")
    assert comfy.messenger.heard == [("mine.event", {"a": 1}, "client")]
