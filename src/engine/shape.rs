//! A network's dimensions, and the matrices that follow from them.
//!
//! Every layer has attention and a feed-forward part. Attention is grouped-query
//! attention, in some layers perhaps to a window only, or attention to a latent (MLA),
//! perhaps to a choice of tokens only. The feed-forward part is dense, or a choice of
//! experts.

use crate::settings::Invalid;
use serde::Deserialize;

/// A network's dimensions, named as in its published configuration.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Its name, for messages.
    pub name: String,
    /// Where the numbers come from.
    pub source: Option<String>,
    /// `num_hidden_layers`.
    pub layers: u32,
    /// `hidden_size`.
    pub hidden: u32,
    /// `num_attention_heads`.
    pub heads: u32,
    /// `num_key_value_heads`; 0 with `latent`.
    #[serde(default)]
    pub kv_heads: u32,
    /// `head_dim`; 0 with `latent`.
    #[serde(default)]
    pub head_size: u32,
    /// `intermediate_size` of the layers without experts; 0 if all have experts.
    #[serde(default)]
    pub ffn: u32,
    /// `vocab_size`.
    pub vocabulary: u32,
    /// `max_position_embeddings`: longest context in tokens.
    pub context_tokens: u32,
    /// `tie_word_embeddings`: the output head is the embedding.
    pub tied_embeddings: bool,
    /// Queries and keys are normalised over all heads, so that GPUs that share a layer
    /// exchange sums before attention (MiniMax).
    #[serde(default)]
    pub norm_over_heads: bool,
    /// Layers that attend to a window only.
    pub window: Option<Window>,
    /// Layers with experts.
    pub experts: Option<Experts>,
    /// Attention to a latent.
    pub latent: Option<Latent>,
}

/// Layers whose tokens attend to the latest ones only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `sliding_window`: tokens attended to.
    pub tokens: u32,
    /// Layers that have it; the others attend to everything.
    pub layers: u32,
    /// The first layer has it: so in all networks known that have both kinds, but Qwen2.
    #[serde(default = "yes")]
    pub first: bool,
}

fn yes() -> bool {
    true
}

/// Feed-forward parts of which each token uses a few.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    /// Routed experts of a layer.
    pub count: u32,
    /// Experts that a token is routed to.
    pub per_token: u32,
    /// `moe_intermediate_size`: width of an expert.
    pub ffn: u32,
    /// Experts of the same width that every token uses.
    #[serde(default)]
    pub shared: u32,
    /// First layers, which have a dense part of width [`Shape::ffn`] instead.
    #[serde(default)]
    pub dense_layers: u32,
}

/// Attention to a compressed form of keys and values (multi-head latent attention),
/// which is all that the cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// `q_lora_rank`; 0 if queries are not compressed.
    #[serde(default)]
    pub query_rank: u32,
    /// `kv_lora_rank`.
    pub kv_rank: u32,
    /// `qk_nope_head_dim`.
    pub nope_size: u32,
    /// `qk_rope_head_dim`.
    pub rope_size: u32,
    /// `v_head_dim`.
    pub value_size: u32,
    /// What chooses the tokens that are attended to, if not all are (DSA).
    pub index: Option<Index>,
}

/// Sparse attention: an index scores all tokens, and only the best are attended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// `index_n_heads`.
    pub heads: u32,
    /// `index_head_dim`.
    pub size: u32,
    /// `index_topk`: tokens attended to.
    pub tokens: u32,
}

/// A matrix product on one GPU: `k` inputs to `n` outputs per row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// Outputs.
    pub n: f64,
    /// Inputs.
    pub k: f64,
}

impl Gemm {
    /// Numbers in its matrix.
    pub fn weights(&self) -> f64 {
        self.n * self.k
    }
}

impl Shape {
    /// The matrix products of a dense layer with grouped-query attention on each of
    /// `tp` GPUs: QKV, attention output, gate and up, down. KV heads that cannot be split
    /// are repeated.
    pub fn layer_gemms(&self, tp: u32) -> [Gemm; 4] {
        let [qkv, output] = self.grouped_gemms(tp);
        let [gate_up, down] = self.feed_forward_gemms(self.ffn, tp);
        [qkv, output, gate_up, down]
    }

    /// The projections of grouped-query attention.
    pub(crate) fn grouped_gemms(&self, tp: u32) -> [Gemm; 2] {
        let ranks = f64::from(tp);
        let hidden = f64::from(self.hidden);
        let head_size = f64::from(self.head_size);
        let query = f64::from(self.heads) * head_size / ranks;
        let kv = 2.0 * self.kv_heads_per_gpu(tp) * head_size;
        [Gemm { n: query + kv, k: hidden }, Gemm { n: hidden, k: query }]
    }

    /// The matrices of a layer's attention on each of `tp` GPUs. Projections to a latent
    /// and those of an index are whole on each.
    pub(crate) fn attention_gemms(&self, tp: u32) -> Vec<Gemm> {
        let Some(latent) = &self.latent else {
            return self.grouped_gemms(tp).to_vec();
        };
        let hidden = f64::from(self.hidden);
        let heads = f64::from(self.heads) / f64::from(tp);
        let [query_rank, kv_rank, nope, rope, value] = [
            latent.query_rank,
            latent.kv_rank,
            latent.nope_size,
            latent.rope_size,
            latent.value_size,
        ]
        .map(f64::from);
        let query = if latent.query_rank == 0 { hidden } else { query_rank };
        let mut gemms = vec![
            Gemm { n: kv_rank + rope, k: hidden },
            Gemm { n: heads * (nope + rope), k: query },
            Gemm { n: heads * (nope + value), k: kv_rank },
            Gemm { n: hidden, k: heads * value },
        ];
        if latent.query_rank > 0 {
            gemms.push(Gemm { n: query_rank, k: hidden });
        }
        if let Some(index) = &latent.index {
            let (heads, size) = (f64::from(index.heads), f64::from(index.size));
            gemms.push(Gemm { n: heads * size, k: query });
            gemms.push(Gemm { n: size, k: hidden });
            gemms.push(Gemm { n: heads, k: hidden });
        }
        gemms
    }

    /// The matrices of a gated feed-forward part of this width on each of `tp` GPUs.
    pub(crate) fn feed_forward_gemms(&self, width: u32, tp: u32) -> [Gemm; 2] {
        let hidden = f64::from(self.hidden);
        let width = f64::from(width) / f64::from(tp);
        [Gemm { n: 2.0 * width, k: hidden }, Gemm { n: hidden, k: width }]
    }

    /// The output head on each of `tp` GPUs.
    pub fn logits_gemm(&self, tp: u32) -> Gemm {
        Gemm { n: f64::from(self.vocabulary) / f64::from(tp), k: f64::from(self.hidden) }
    }

    /// KV heads held by each of `tp` GPUs.
    pub fn kv_heads_per_gpu(&self, tp: u32) -> f64 {
        f64::from(self.kv_heads.max(tp)) / f64::from(tp)
    }

    /// Layers whose feed-forward part is dense.
    pub fn dense_layers(&self) -> u32 {
        self.experts.map_or(self.layers, |experts| experts.dense_layers)
    }

    /// Layers that attend to a window only.
    pub fn window_layers(&self) -> u32 {
        self.window.map_or(0, |window| window.layers)
    }

    /// What it has beside dense layers with grouped-query attention, in words.
    pub fn beside_dense(&self) -> Option<&'static str> {
        match (&self.latent, &self.experts) {
            (Some(Latent { index: Some(_), .. }), _) => Some("sparse attention to a latent"),
            (Some(_), _) => Some("attention to a latent"),
            (None, Some(_)) => Some("experts"),
            (None, None) => None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Invalid> {
        for (key, value) in [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("vocabulary", self.vocabulary),
            ("context_tokens", self.context_tokens),
        ] {
            at_least_one(key, value)?;
        }
        if let Some(latent) = &self.latent {
            latent.validate()?;
            let without = "absent with [latent], which says what is attended to";
            Invalid::unless(self.kv_heads == 0, "kv_heads", self.kv_heads, without)?;
            Invalid::unless(self.head_size == 0, "head_size", self.head_size, without)?;
            Invalid::unless(self.window.is_none(), "window", "given", without)?;
        } else {
            at_least_one("kv_heads", self.kv_heads)?;
            at_least_one("head_size", self.head_size)?;
            Invalid::unless(
                self.heads.is_multiple_of(self.kv_heads),
                "heads",
                self.heads,
                &format!("a multiple of kv_heads ({})", self.kv_heads),
            )?;
        }
        if let Some(window) = self.window {
            at_least_one("window.tokens", window.tokens)?;
            let allowed = format!("from 1 to the {} layers", self.layers);
            let fits = (1..=self.layers).contains(&window.layers);
            Invalid::unless(fits, "window.layers", window.layers, &allowed)?;
        }
        if let Some(experts) = &self.experts {
            experts.validate(self.layers)?;
        }
        if self.dense_layers() > 0 {
            return at_least_one("ffn", self.ffn);
        }
        let all = "absent where all layers have experts (experts.dense_layers = 0)";
        Invalid::unless(self.ffn == 0, "ffn", self.ffn, all)
    }
}

impl Experts {
    fn validate(&self, layers: u32) -> Result<(), Invalid> {
        at_least_one("experts.count", self.count)?;
        at_least_one("experts.ffn", self.ffn)?;
        Invalid::unless(
            (1..=self.count).contains(&self.per_token),
            "experts.per_token",
            self.per_token,
            &format!("from 1 to the {} experts", self.count),
        )?;
        Invalid::unless(
            self.dense_layers < layers,
            "experts.dense_layers",
            self.dense_layers,
            &format!("fewer than the {layers} layers"),
        )
    }
}

impl Latent {
    fn validate(&self) -> Result<(), Invalid> {
        at_least_one("latent.kv_rank", self.kv_rank)?;
        at_least_one("latent.nope_size", self.nope_size)?;
        at_least_one("latent.rope_size", self.rope_size)?;
        at_least_one("latent.value_size", self.value_size)?;
        let Some(index) = self.index else { return Ok(()) };
        at_least_one("latent.index.heads", index.heads)?;
        at_least_one("latent.index.size", index.size)?;
        at_least_one("latent.index.tokens", index.tokens)
    }
}

fn at_least_one(key: &str, value: u32) -> Result<(), Invalid> {
    Invalid::unless(value >= 1, key, value, "at least 1")
}
