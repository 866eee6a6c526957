//! What the name of an image says of the program in it.

/// vLLM in releases of Dynamo. Source: Dynamo's pages on compatibility, 0.6 to 1.5.
const VLLM_OF_DYNAMO: [((u32, u32), u32); 8] = [
    ((0, 6), 11),
    ((0, 8), 12),
    ((0, 9), 14),
    ((1, 1), 19),
    ((1, 2), 20),
    ((1, 3), 23),
    ((1, 5), 28),
    ((u32::MAX, 0), u32::MAX),
];

/// Major and minor version in the tag of an image.
pub(super) fn version(image: &str) -> Option<(u32, u32)> {
    let tag = image.rsplit('/').next()?.split_once(':')?.1;
    let mut parts = tag.trim_start_matches('v').split(['.', '-', '_']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether an image of TensorRT-LLM's own (`nvcr.io/nvidia/tensorrt-llm/release:1.4.0`) is of
/// version 1.4 or later.
pub(super) fn is_trtllm_1_4(image: &str) -> bool {
    image.contains("tensorrt-llm") && version(image).is_some_and(|version| version >= (1, 4))
}

/// The file of engine defaults for the vLLM in an image, and what of the image says so, or
/// (`Err`) what is assumed.
pub(super) fn vllm_defaults(image: &str) -> (&'static str, Result<String, String>) {
    let (minor, why) = match version(image) {
        Some((0, minor)) if image.contains("vllm-openai") => (minor, Ok(format!("image {image}"))),
        Some(of_dynamo) if image.contains("runtime") => {
            let next =
                VLLM_OF_DYNAMO.iter().position(|(release, _)| *release > of_dynamo).unwrap_or(0);
            match next.checked_sub(1).map(|known| VLLM_OF_DYNAMO[known].1) {
                Some(minor) => (minor, Ok(format!("image {image}: vLLM 0.{minor}"))),
                None => (11, Err(format!("image {image}: vLLM 0.11 or earlier"))),
            }
        }
        _ if image.is_empty() => (24, Err("vLLM's version is unknown".to_owned())),
        _ => (24, Err(format!("image {image} does not say vLLM's version"))),
    };
    let file = match minor {
        0..=13 => "vllm-0.12",
        14 => "vllm-0.14",
        15..=16 => "vllm-0.16",
        17..=24 => "vllm-0.24",
        _ => "vllm-0.32",
    };
    (file, why)
}
