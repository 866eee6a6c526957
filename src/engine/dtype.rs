//! Number formats of weights and of KV.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A number format.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Dtype {
    /// 16 bit.
    Bf16,
    /// 8 bit, one scale for a whole matrix.
    Fp8,
    /// 8 bit, a scale for each block of 128 x 128, as DeepSeek publishes its weights.
    Fp8Block,
    /// 4 bit with a scale of 8 bit for every 32 numbers, as OpenAI publishes gpt-oss.
    Mxfp4,
    /// 4 bit with a scale of 8 bit for every 16 numbers (NVIDIA).
    Nvfp4,
    /// 4-bit integers with a scale of 16 bit for every 32 numbers; products in 16 bit.
    Int4,
}

impl Dtype {
    /// Every format.
    pub const ALL: [Self; 6] =
        [Self::Bf16, Self::Fp8, Self::Fp8Block, Self::Mxfp4, Self::Nvfp4, Self::Int4];

    /// Bytes of a number, its share of the scales included. Scales for 16,384 numbers
    /// and more are left out.
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 | Self::Fp8Block => 1.0,
            Self::Mxfp4 => 4.25 / 8.0,
            Self::Nvfp4 | Self::Int4 => 4.5 / 8.0,
        }
    }

    /// True for formats that releases give to routed experts alone, while the rest of
    /// the network stays in 16 bit.
    pub const fn is_for_experts(self) -> bool {
        matches!(self, Self::Mxfp4 | Self::Nvfp4 | Self::Int4)
    }

    /// As it is written in files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Fp8Block => "fp8_block",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_written_as_they_are_read() {
        for dtype in Dtype::ALL {
            let read: Dtype = serde_json::from_str(&format!("\"{dtype}\"")).expect("a format");
            assert_eq!(read, dtype);
        }
    }
}
