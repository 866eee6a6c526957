//! Short histories with the costs that dynamo-kv-router 1.6.1 itself computes
//! for them: its index, its tracker and its selector were driven through each,
//! and the cost it logs per worker was written down. Any [`Decider`] can be held
//! to them.

use super::{FINISHED, Texts, life};
use crate::event::WorkerEventKind::{FirstToken, OutputBlock};
use crate::id::WorkerId;
use crate::router::decider::Decider;
use crate::router::kv::{KvParams, Semantics};
use crate::time::SimTime;

/// The settings of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) workers: u32,
    pub(crate) block_size: u32,
    /// 0.9's overlap weight.
    pub(crate) weight: f64,
    pub(crate) track_prefill_tokens: bool,
    /// Generated tokens count, and this many of them are expected, if any number is.
    pub(crate) outputs: Option<Option<u32>>,
}

impl Setup {
    /// The parameters of a policy for this history.
    pub(crate) fn params(&self, semantics: Semantics) -> KvParams {
        KvParams {
            track_prefill_tokens: self.track_prefill_tokens,
            track_output_blocks: self.outputs.is_some(),
            expected_output_tokens: self.outputs.flatten(),
            ..KvParams::with_weight(semantics, self.weight)
        }
    }
}

const THREE: Setup =
    Setup { workers: 3, block_size: 32, weight: 1.0, track_prefill_tokens: true, outputs: None };
const TWO: Setup = Setup { workers: 2, ..THREE };

/// A history under way.
struct Rig<D> {
    name: &'static str,
    decider: D,
    block_size: u32,
    texts: Texts,
    requests: u32,
}

impl<D: Decider> Rig<D> {
    fn store(&mut self, worker: u32, text: usize, from: u32, to: u32) {
        for event in self.texts.stored(text, from, to) {
            self.decider.observe_kv(WorkerId(worker), &event);
        }
    }

    fn lose(&mut self, worker: u32, text: usize, from: u32, to: u32) {
        for event in self.texts.removed(text, from, to) {
            self.decider.observe_kv(WorkerId(worker), &event);
        }
    }

    /// Sends a prompt of `tokens` of `text` to `worker`, whatever the cost.
    fn send(&mut self, worker: u32, text: usize, tokens: u32) -> u32 {
        let request = self.texts.request(self.requests, text, tokens, self.block_size);
        self.requests += 1;
        let view = request.route_view(self.block_size);
        let asked = self.decider.look_up(SimTime::ZERO, &view);
        self.decider.book(SimTime::ZERO, asked, WorkerId(worker));
        request.id.0
    }

    fn first_token(&mut self, worker: u32, request: u32) {
        self.decider.observe(SimTime::ZERO, &life(worker, request, FirstToken));
    }

    /// `request` generates its tokens up to `tokens`, with a block of 32 tokens
    /// begun by every 32nd of them from the 33rd on.
    fn generate(&mut self, worker: u32, request: u32, tokens: u32) {
        for output_tokens in (33..=tokens).step_by(32) {
            let event = life(worker, request, OutputBlock { output_tokens });
            self.decider.observe(SimTime::ZERO, &event);
        }
    }

    fn finish(&mut self, worker: u32, request: u32) {
        self.decider.observe(SimTime::ZERO, &life(worker, request, FINISHED));
    }

    /// A prompt of `tokens` of `text` must cost so much; the choice must be one
    /// of the lowest.
    fn check(&mut self, text: usize, tokens: u32, costs: &[f64]) {
        let request = self.texts.request(self.requests, text, tokens, self.block_size);
        let asked = self.decider.look_up(SimTime::ZERO, &request.route_view(self.block_size));
        let chosen = self.decider.choose(&asked).expect("no worker is overloaded");
        let found = self.decider.costs(&asked);
        assert_eq!(found.len(), costs.len(), "{}", self.name);
        for (found, expected) in found.iter().zip(costs) {
            assert!((found - expected).abs() < 1e-9, "{}: {found} for {expected}", self.name);
        }
        let lowest = costs.iter().copied().fold(f64::INFINITY, f64::min);
        assert_eq!(costs[chosen.index()], lowest, "{}", self.name);
    }
}

/// Plays every history on a fresh decider from `make` and checks the costs.
pub(crate) fn check_histories<D: Decider>(make: impl Fn(Setup) -> D) {
    let play = |name, setup: Setup, history: fn(&mut Rig<D>)| {
        let (block_size, texts) = (setup.block_size, Texts::default());
        history(&mut Rig { name, decider: make(setup), block_size, texts, requests: 0 });
    };
    let weight = |weight| Setup { weight, ..THREE };
    play("weight 1", THREE, |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[80.0, 92.875, 76.0]);
    });
    play("weight 0.25", weight(0.25), |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[65.0, 68.968_75, 49.0]);
    });
    play("weight 2", weight(2.0), |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[100.0, 124.75, 112.0]);
    });
    play("weight 4", weight(4.0), |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[140.0, 188.5, 184.0]);
    });
    play("weight 0: blocks in flight only", weight(0.0), |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[60.0, 61.0, 40.0]);
    });
    play("the first token takes the prompt off", THREE, |rig| {
        let (text, _, prefilling) = busy(rig);
        rig.first_token(1, prefilling);
        rig.check(text, 1_280, &[80.0, 71.0, 76.0]);
    });
    play("the end takes everything off", THREE, |rig| {
        let (text, decoding, prefilling) = busy(rig);
        rig.finish(1, prefilling);
        rig.finish(0, decoding);
        rig.check(text, 1_280, &[60.0, 50.0, 76.0]);
    });
    play("nothing known: all tie", THREE, |rig| {
        let text = rig.texts.add(None);
        rig.check(text, 1_280, &[80.0, 80.0, 80.0]);
    });
    play("prefill does not count", Setup { track_prefill_tokens: false, ..weight(0.0) }, |rig| {
        let (text, ..) = busy(rig);
        rig.check(text, 1_280, &[60.0, 61.0, 40.0]);
    });
    play("the same prompt is running: its blocks count once", THREE, |rig| {
        let text = rig.texts.add(None);
        let running = rig.send(0, text, 1_300);
        rig.first_token(0, running);
        rig.check(text, 1_300, &[80.625, 80.625, 80.625]);
    });
    play("two running prompts share 40 blocks: 70 distinct", TWO, |rig| {
        let text = rig.texts.add(None);
        for tokens in [1_600, 1_920] {
            let branch = rig.texts.add(Some((text, 40)));
            let running = rig.send(0, branch, tokens);
            rig.first_token(0, running);
        }
        let third = rig.texts.add(Some((text, 40)));
        rig.check(third, 1_380, &[116.125, 86.125]);
    });
    play("everything cached: the own blocks still count", TWO, |rig| {
        let text = rig.texts.add(None);
        rig.store(0, text, 0, 40);
        rig.store(1, text, 0, 10);
        rig.check(text, 1_280, &[40.0, 70.0]);
        // A hole of one block truncates, and refilling it brings back only it.
        rig.lose(0, text, 20, 21);
        rig.check(text, 1_280, &[60.0, 70.0]);
        rig.store(0, text, 20, 21);
        rig.check(text, 1_280, &[59.0, 70.0]);
    });
    play("a store twice is one, a store without parent none", TWO, |rig| {
        let text = rig.texts.add(None);
        rig.store(0, text, 0, 10);
        rig.store(0, text, 0, 10);
        rig.store(1, text, 5, 10);
        rig.check(text, 1_280, &[70.0, 80.0]);
    });
    play("three blocks of output", Setup { outputs: Some(None), ..THREE }, |rig| {
        let (text, decoding, _) = busy(rig);
        // The first token begins the first: the prompt fills its blocks.
        rig.generate(0, decoding, 65);
        rig.check(text, 1_280, &[83.0, 92.875, 76.0]);
    });
    // At the 97th token, the first of the fourth block, half of 194 are done.
    let halfway = Setup { outputs: Some(Some(194)), ..THREE };
    play("blocks of prompt and output count half at half time", halfway, |rig| {
        let (text, decoding, _) = busy(rig);
        rig.generate(0, decoding, 97);
        rig.check(text, 1_280, &[72.0, 92.875, 76.0]);
    });
    let ladder = Setup { workers: 4, block_size: 16, ..THREE };
    play("prompts in flight of 10, 20, 30 and 40 blocks", ladder, |rig| {
        for worker in 0..4 {
            let text = rig.texts.add(None);
            rig.send(worker, text, 160 * (worker + 1));
        }
        let text = rig.texts.add(None);
        rig.check(text, 50, &[26.125, 46.125, 66.125, 86.125]);
    });
}

/// Worker 0 holds 20 of 40 blocks of a text and decodes 20 other blocks; worker
/// 1 holds 30 and computes a prompt of 700 tokens; worker 2 holds 4. Gives the
/// text and the two requests.
fn busy<D: Decider>(rig: &mut Rig<D>) -> (usize, u32, u32) {
    let text = rig.texts.add(None);
    rig.store(0, text, 0, 20);
    rig.store(1, text, 0, 30);
    rig.store(2, text, 0, 4);
    let (other, third) = (rig.texts.add(None), rig.texts.add(None));
    let decoding = rig.send(0, other, 640);
    rig.first_token(0, decoding);
    let prefilling = rig.send(1, third, 700);
    (text, decoding, prefilling)
}
