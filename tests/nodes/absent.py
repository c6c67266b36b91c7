"""Classes of the contract that the server does not have, and why."""

from collections.abc import Mapping

# Reasons, each with the classes it is true of. These are out of scope, and stay so until a reason goes.
OUT_OF_SCOPE: Mapping[str, str] = {
    "audio": """
        AudioAdjustVolume AudioConcat AudioEncoderEncode AudioEncoderLoader AudioMerge ConditioningStableAudio
        EmptyAceStepLatentAudio EmptyAudio EmptyLatentAudio LoadAudio PreviewAudio RecordAudio SaveAudio
        SaveAudioMP3 SaveAudioOpus SplitAudioChannels TextEncodeAceStepAudio TrimAudioDuration VAEDecodeAudio
        VAEEncodeAudio
    """,
    "video models": """
        CosmosImageToVideoLatent CosmosPredict2ImageToVideoLatent HunyuanImageToVideo HunyuanRefinerLatent
        LTXVAddGuide LTXVConditioning LTXVCropGuides LTXVImgToVideo LTXVPreprocess ModelSamplingLTXV
        SVD_img2vid_Conditioning TextEncodeHunyuanVideo_ImageToVideo Wan22FunControlToVideo
        Wan22ImageToVideoLatent WanAnimateToVideo WanCameraImageToVideo WanContextWindowsManual
        WanFirstLastFrameToVideo WanFunControlToVideo WanFunInpaintToVideo WanHuMoImageToVideo WanImageToVideo
        WanPhantomSubjectToVideo WanSoundImageToVideo WanSoundImageToVideoExtend WanTrackToVideo
        WanVaceToVideo ContextWindowsManual ImageOnlyCheckpointLoader
    """,
    "three dimensions and camera paths": """
        Hunyuan3Dv2Conditioning Hunyuan3Dv2ConditioningMultiView Load3D Load3DAnimation Preview3D
        Preview3DAnimation SaveGLB SV3D_Conditioning StableZero123_Conditioning
        StableZero123_Conditioning_Batched VAEDecodeHunyuan3D VoxelToMesh VoxelToMeshBasic WanCameraEmbedding
    """,
    "training": """
        LoadImageSetFromFolderNode LoadImageTextSetFromFolderNode LoraModelLoader LossGraphNode SaveLoRANode
        TrainLoraNode
    """,
    "Stable Cascade": """
        StableCascade_StageB_Conditioning StableCascade_StageC_VAEEncode
        StableCascade_SuperResolutionControlnet
    """,
    "GLIGEN": "GLIGENLoader GLIGENTextBoxApply",
    "unCLIP": "unCLIPCheckpointLoader unCLIPConditioning",
    "a family that is not served": """
        ChromaRadianceOptions CLIPTextEncodeHiDream CLIPTextEncodeHunyuanDiT CLIPTextEncodePixArtAlpha
        QuadrupleCLIPLoader
    """,
    "PhotoMaker, hypernetworks": "HypernetworkLoader PhotoMakerEncode PhotoMakerLoader",
}

# In scope, and still to be made. The list only shrinks.
LATER = """
"""
NOT_YET = frozenset(LATER.split())

# Here, and younger than the contract (ComfyUI 0.3.64): templates of the tested front end use them.
YOUNGER = frozenset({"ComfySwitchNode"})


def reasons() -> dict[str, str]:
    """Why each class of the first list is absent."""
    return {name: reason for reason, names in OUT_OF_SCOPE.items() for name in names.split()}
