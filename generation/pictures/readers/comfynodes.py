"""ComfyUI's nodes that add no LoRA: what each one passes on, holds or chooses.

Class names and inputs are from the nodes' own sources: ComfyUI's nodes.py and comfy_extras, and the
packs Efficiency, Comfyroll, rgthree, Easy-Use, Impact, Inspire, KJNodes, WAS, Crystools, Image
Saver, GGUF and nunchaku. A class that stands neither here nor in `comfyloras` is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for line in text.splitlines() for name in line.split(";")) - {""}


SOURCES = _names("""
    CheckpointLoaderSimple; CheckpointLoader; unCLIPCheckpointLoader; ImageOnlyCheckpointLoader
    CheckpointLoaderNF4; DiffusersLoader; UNETLoader; UnetLoaderGGUF; UnetLoaderGGUFAdvanced
    CLIPLoader; DualCLIPLoader; TripleCLIPLoader; QuadrupleCLIPLoader; CLIPLoaderGGUF
    DualCLIPLoaderGGUF; TripleCLIPLoaderGGUF; QuadrupleCLIPLoaderGGUF; CheckpointLoader|pysssss
    Checkpoint Loader; Checkpoint Loader (Simple); Checkpoint Loader with Name (Image Saver)
    UNETLoader with Name (Image Saver); Checkpoint Loader (LoraManager); Unet Loader (LoraManager)
    NunchakuFluxDiTLoader; NunchakuQwenImageDiTLoader; NunchakuTextEncoderLoader
    NunchakuTextEncoderLoaderV2; CheckpointLoaderSimpleShared //Inspire; DiffusionModelLoaderKJ
""")
"""Load a model, a text encoder, or both."""

MODEL_PASS = _names("""
    ModelSamplingFlux; ModelSamplingSD3; ModelSamplingDiscrete; ModelSamplingAuraFlow
    ModelSamplingContinuousEDM; ModelSamplingContinuousV; ModelSamplingStableCascade
    ModelSamplingLTXV
    RescaleCFG; FreeU; FreeU_V2; PatchModelAddDownscale; PerturbedAttentionGuidance
    SelfAttentionGuidance; HyperTile; TomePatchModel; TorchCompileModel; DifferentialDiffusion
    SkipLayerGuidanceDiT; SkipLayerGuidanceSD3; SkipLayerGuidanceDiTSimple; CFGZeroStar; CFGNorm
    EasyCache; LazyCache; TeaCache; ApplyFBCacheOnModel; PathchSageAttentionKJ
    PatchModelPatcherOrder; TorchCompileModelFluxAdvanced; Automatic CFG; AutomaticCFG
    IPAdapter; IPAdapterAdvanced; IPAdapterUnifiedLoader; IPAdapterStyleComposition; IPAdapterTiled
    EpsilonScaling; RenormCFG; Mahiro; UNetSelfAttentionMultiply; UNetCrossAttentionMultiply
    UNetTemporalAttentionMultiply; QwenImageDiffsynthControlnet; ModelPatchTorchSettings
    NAGuidance; TCFG; ScaleROPE; OverrideModelDevice
""")
"""Patch how the model at "model" is sampled, not its weights."""

CLIP_PASS = _names(
    "CLIPSetLastLayer; CLIPAttentionMultiply; OverrideCLIPDevice; T5TokenizerOptions"
)

MERGES = _names("""
    ModelMergeSimple; ModelMergeBlocks; ModelMergeAdd; ModelMergeSubtract; CLIPMergeSimple
    CLIPMergeAdd; CLIPMergeSubtract; ModelMergeSD1; ModelMergeSDXL; ModelMergeFlux1
""")
"""Mix several models: what a LoRA below them still weighs cannot be told."""

ENCODERS: Mapping[str, tuple[str, ...]] = {
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("text_g", "text_l"),
    "CLIPTextEncodeSDXLRefiner": ("text",),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeHunyuanDiT": ("bert", "mt5xl"),
    "CLIPTextEncodeHiDream": ("clip_l", "clip_g", "t5xxl", "llama"),
    "CLIPTextEncodePixArtAlpha": ("text",),
    "CLIPTextEncodeLumina2": ("system_prompt", "user_prompt"),
    "TextEncodeQwenImageEdit": ("prompt",),
    "TextEncodeQwenImageEditPlus": ("prompt",),
    "BNK_CLIPTextEncodeAdvanced": ("text",),
    "BNK_CLIPTextEncodeSDXLAdvanced": ("text_g", "text_l"),
    "smZ CLIPTextEncode": ("text",),
    "CLIPTextEncode (NSP)": ("text",),
}
"""Text encoders and the inputs that hold their texts."""

COMBINE: Mapping[str, tuple[str, ...]] = {
    "ConditioningCombine": ("conditioning_1", "conditioning_2"),
    "ConditioningConcat": ("conditioning_to", "conditioning_from"),
    "ConditioningAverage": ("conditioning_to", "conditioning_from"),
}
"""Two prompts in one."""

CONDITIONING_PASS = _names("""
    ConditioningSetArea; ConditioningSetAreaPercentage; ConditioningSetAreaStrength
    ConditioningSetMask; ConditioningSetTimestepRange; FluxGuidance; ControlNetApply
    ControlNetApplyAdvanced; ControlNetApplySD3; ControlNetInpaintingAliMamaApply
    ACN_AdvancedControlNetApply; ACN_AdvancedControlNetApply_v2; InpaintModelConditioning
    InstructPixToPixConditioning; StyleModelApply; unCLIPConditioning; ReferenceLatent
    ConditioningSetAreaPercentageVideo; CLIPVisionEncode; Apply ControlNet Stack
    FluxDisableGuidance
    FluxKontextMultiReferenceLatentMethod; ConditioningZeroOut; CR Apply ControlNet
""")
"""Change the conditioning at "conditioning", "positive" or "negative"; no weights, no text."""

SAMPLERS = _names("""
    KSampler; KSamplerAdvanced; SamplerCustom; SamplerCustomAdvanced; KSampler (Efficient)
    KSampler Adv. (Efficient); KSampler (WAS); XlabsSampler; BNK_TiledKSampler
    BNK_TiledKSamplerAdvanced; KSampler //Inspire; KSamplerAdvanced //Inspire; FaceDetailer
    FaceDetailerPipe; UltimateSDUpscale; UltimateSDUpscaleNoUpscale; UltimateSDUpscaleCustomSample
    DetailerForEach; DetailerForEachPipe; DetailerForEachDebug; SEGSDetailer
""")

GUIDERS = _names("BasicGuider; CFGGuider; DualCFGGuider; PerpNegGuider")

SCHEDULES = _names("""
    BasicScheduler; KarrasScheduler; ExponentialScheduler; PolyexponentialScheduler; VPScheduler
    BetaSamplingScheduler; SDTurboScheduler; AlignYourStepsScheduler; GITSScheduler
    LaplaceScheduler; SplitSigmas; SplitSigmasDenoise; FlipSigmas; OptimalStepsScheduler
    Flux2Scheduler; KSamplerSelect; RandomNoise; DisableNoise; SamplerEulerAncestral
    SamplerDPMPP_2M_SDE; SamplerDPMPP_SDE; SamplerDPMPP_3M_SDE; SamplerLMS; SamplerEulerCFGpp
""")

OTHER = _names("""
    VAELoader; VAEDecode; VAEDecodeTiled; VAEEncode; VAEEncodeTiled; VAEEncodeForInpaint
    EmptyLatentImage; EmptySD3LatentImage; EmptyFlux2LatentImage; EmptyHunyuanLatentVideo
    EmptyLatentImageScaledPresets; LatentUpscale; LatentUpscaleBy; LatentComposite; LatentBlend
    LatentFromBatch; RepeatLatentBatch; SetLatentNoiseMask; LatentCompositeMasked; LatentRotate
    LatentFlip; LatentCrop; LoadImage; LoadImageMask; ImageScale; ImageScaleBy; ImageInvert
    ImageBatch; ImageSharpen; ImageBlur; ImageCrop; ImagePadForOutpaint; ImageBlend; ImageQuantize
    ImageScaleToTotalPixels; ImageUpscaleWithModel; UpscaleModelLoader; ControlNetLoader
    DiffControlNetLoader; SetUnionControlNetType; CLIPVisionLoader; StyleModelLoader
    IPAdapterModelLoader; Canny; MaskToImage; ImageToMask; SolidMask; InvertMask; GrowMask
    SaveImage; PreviewImage; SaveImageWebsocket; ModelPatchLoader; UltralyticsDetectorProvider
    SAMLoader; CR Latent Input Switch; SDXL Empty Latent Image (rgthree); CR SDXL Aspect Ratio
    CR Aspect Ratio; Note; MarkdownNote; FluxResolutionNode; HighRes-Fix Script
    Noise Control Script
""")
"""Nothing of model, text encoder or prompt comes out of these."""

CONSTANTS: Mapping[str, tuple[str, ...]] = {
    "PrimitiveNode": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveBoolean": ("value",),
    "FloatConstant": ("value",),
    "INTConstant": ("value",),
    "BOOLConstant": ("value",),
    "StringConstant": ("string",),
    "StringConstantMultiline": ("string",),
    "easy float": ("value",),
    "easy int": ("value",),
    "easy string": ("value",),
    "easy boolean": ("value",),
    "easy seed": ("seed",),
    "Seed (rgthree)": ("seed",),
    "Power Primitive (rgthree)": ("value",),
    "Seed": ("seed",),
    "Seed Everywhere": ("seed",),
    "CR Seed": ("seed",),
    "CR Value": ("value",),
    "CR Integer": ("value",),
    "CR Text": ("text",),
    "CR Prompt Text": ("prompt",),
    "Float": ("value", "Value", "float", "number", "Number"),
    "Int": ("value", "Value", "int", "number", "Number"),
    "Integer": ("value", "int", "number"),
    "String": ("value", "Value", "string"),
    "ImpactInt": ("value",),
    "ImpactFloat": ("value",),
    "ImpactBoolean": ("value",),
    "Primitive float [Crystools]": ("float",),
    "Primitive integer [Crystools]": ("int",),
    "Primitive string [Crystools]": ("string",),
    "Primitive string multiline [Crystools]": ("string",),
    "Primitive boolean [Crystools]": ("boolean",),
    "Float Literal": ("float",),
    "Int Literal": ("int",),
    "String Literal": ("string",),
    "Float Literal (Image Saver)": ("float",),
    "Int Literal (Image Saver)": ("int",),
    "String Literal (Image Saver)": ("string",),
    "Cfg Literal": ("float",),
    "Cfg Literal (Image Saver)": ("float",),
    "Seed Generator": ("seed",),
    "Seed Generator (Image Saver)": ("seed",),
    "Sampler Selector": ("sampler_name",),
    "Sampler Selector (Image Saver)": ("sampler_name",),
    "Scheduler Selector": ("scheduler",),
    "Scheduler Selector (Image Saver)": ("scheduler",),
    "Constant Number": ("number",),
    "Float-🔬": ("value",),
    "JWInteger": ("value",),
    "JWFloat": ("value",),
    "JWString": ("text",),
    "ttN int": ("int",),
    "ttN float": ("float",),
    "ttN text": ("text",),
    "ttN seed": ("seed",),
    "Simple String": ("string",),
    "KSamplerSelect": ("sampler_name",),
    "RandomNoise": ("noise_seed",),
}
"""Nodes that hold one value, and the input that holds it."""

TEXT_OUTPUTS: Mapping[str, tuple[int, str]] = {
    "LoraTagLoader": (2, "text"),
    "ImpactWildcardEncode": (3, "populated_text"),
    "ImpactWildcardProcessor": (0, "populated_text"),
    "Power Prompt (rgthree)": (3, "prompt"),
    "ShowText|pysssss": (0, "text"),
}
"""Nodes one of whose outputs is a text that they hold (tags may have been taken out of it)."""

REROUTES = _names("Reroute; Reroute (rgthree); ReroutePrimitive|pysssss; easy reroute; RerouteNode")
"""Pass on their only link."""

FIRST_OF = _names("Any Switch (rgthree); Context Switch (rgthree); Context Switch Big (rgthree)")
"""Pass on the first of their links (`any_01`, `any_02`, ...) that is connected."""

BY_INDEX: Mapping[str, tuple[str, str]] = {
    "ImpactSwitch": ("select", "input{}"),
    "LatentSwitch": ("select", "input{}"),
    "easy anythingIndexSwitch": ("index", "value{}"),
    "CR Model Input Switch": ("Input", "model{}"),
    "CR Clip Input Switch": ("Input", "clip{}"),
    "CR Conditioning Input Switch": ("Input", "conditioning{}"),
}
"""Pass on the link whose number an input holds."""

BY_FLAG: Mapping[str, tuple[str, str, str]] = {
    "Switch any [Crystools]": ("boolean", "on_true", "on_false"),
    "LazySwitchKJ": ("switch", "on_true", "on_false"),
    "ComfySwitchNode": ("switch", "on_true", "on_false"),
    "easy ifElse": ("boolean", "on_true", "on_false"),
    "ImpactConditionalBranch": ("cond", "tt_value", "ff_value"),
    "Model Input Switch": ("boolean", "model_a", "model_b"),
    "CLIP Input Switch": ("boolean", "clip_a", "clip_b"),
    "Conditioning Input Switch": ("boolean", "conditioning_a", "conditioning_b"),
}
"""Pass on one of two links by a flag."""

PIPES = _names("""
    ToBasicPipe; FromBasicPipe; FromBasicPipe_v2; EditBasicPipe; Context (rgthree)
    Context Big (rgthree)
""")
"""Bundle model, clip and prompts; what is asked for is found by its name, or in the bundle."""

BUNDLES = ("basic_pipe", "base_ctx", "ctx_01")

KNOWN = (
    SOURCES
    | MODEL_PASS
    | CLIP_PASS
    | MERGES
    | frozenset(ENCODERS)
    | frozenset(COMBINE)
    | CONDITIONING_PASS
    | SAMPLERS
    | GUIDERS
    | SCHEDULES
    | OTHER
    | frozenset(CONSTANTS)
)
"""Nodes that neither add a LoRA nor choose between links."""

CHOOSERS = REROUTES | FIRST_OF | frozenset(BY_INDEX) | frozenset(BY_FLAG) | PIPES
"""Nodes that pass on whatever they are given."""
